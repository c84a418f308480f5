"""Configuration of the semantic subflow (LLM, profiles, text vectors) and the shape of what the LLM answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.secret import SecretURL, ServerURL
from schemas.section import Section, not_hashed


class LLMConfig(Section):
    """The language model and how it is reached."""

    model: str = "smollm2-135m-instruct"
    """A packaged model's alias, a Hugging Face id, or a folder; with `engine: server`, the name the server serves."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face id."""
    engine: Literal["offline", "server"] = "offline"
    """offline: vLLM in processes of its own; server: a running server that speaks the OpenAI protocol."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic; auto: bfloat16 where the device has it in hardware, float32 elsewhere."""
    max_model_len: int = Field(default=2048, ge=128, le=2**24)
    """Longest prompt and answer together, in tokens; of a row that is longer the longest texts are cut."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 always takes the likeliest token."""
    frequency_penalty: float = Field(default=0.3, ge=-2, le=2)
    """Keeps a small model from saying the same words over and over; 0 for a large one."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of sampling; each row draws from its own stream."""
    trust_remote_code: bool = False
    """Runs Python code that the model's folder brings along. Leave it off unless you have read that code."""
    workers: int = not_hashed(0, ge=0, le=1_024)
    """Engine processes; 0: one a core on CPU, one on GPU."""
    kv_cache_mib: int = not_hashed(512, ge=64, le=2**24)
    """Memory for attention keys and values, in MiB a CPU worker; on GPU vLLM sizes it."""
    batch: int = not_hashed(64, ge=1, le=2**20)
    """Rows in work at once in one engine."""
    chunk: int = not_hashed(0, ge=0, le=2**24)
    """Rows handed to an offline engine and written to the ledger at a time; 0: 64 on CPU, 2048 on GPU. Answers of a
    server are written as they come."""
    server_url: ServerURL = not_hashed(SecretURL("http://127.0.0.1:8000/v1"))
    """Base address of the server. A user, password or query value in it reaches the server and is shown nowhere."""
    api_key_env: str = not_hashed("DAREC_LLM_API_KEY")
    """Environment variable that holds the server's key; unset: no key is sent."""
    concurrency: int = not_hashed(128, ge=1, le=65_536)
    """Requests open at the server at once."""
    retries: int = not_hashed(5, ge=0, le=1_000)
    """Further tries of a request after a transient error, with exponential backoff."""
    timeout: float = not_hashed(300.0, gt=0, le=604_800)
    """Seconds until a request to the server counts as failed, however much of its answer has come."""
    max_fallback_share: float = not_hashed(0.25, ge=0, le=1)
    """A profile stage stops if the LLM gives no usable answer for more than this share of its rows. All answers are
    kept; the next run asks the others again."""
    fallback_retries: int = not_hashed(3, ge=0, le=1_000)
    """Later nights on which a row without a usable answer is asked again; 0: never."""
    fallback_retry_share: float = not_hashed(0.1, ge=0, le=1)
    """Largest share of a stage's rows that is asked again in one night (at least one row); shortest prompts first."""
    fallback_retry_hours: float = not_hashed(12.0, ge=0, le=8_760)
    """Hours before a row without a usable answer is asked again."""


class ItemProfileConfig(Section):
    """Profiles of items: what it is like, who enjoys it."""

    prompt: str = not_hashed("prompts/item_profile.j2")
    """Template with the blocks `system` and `user`."""
    max_tokens: int = Field(default=40, ge=8, le=65_536)
    """Most tokens of one answer, the JSON around the text included."""
    max_chars: int = Field(default=90, ge=20, le=4000)
    """Longest profile, in characters; the grammar ends the text there."""


class UserProfileConfig(Section):
    """Profiles of users, from a sample of their train items."""

    prompt: str = not_hashed("prompts/user_profile.j2")
    """Template with the blocks `system` and `user`."""
    max_tokens: int = Field(default=40, ge=8, le=65_536)
    """Most tokens of one answer, the JSON around the text included."""
    max_chars: int = Field(default=90, ge=20, le=4000)
    """Longest profile, in characters; the grammar ends the text there."""
    items: int = Field(default=3, ge=1, le=100)
    """Items shown of a user's history: those with the lowest hash of user and item, so that a new interaction
    changes the prompt of a user with n items with a chance of items / n only."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of that hash."""


class EmbedConfig(Section):
    """Text vectors of items and users."""

    model: str = "all-minilm-l6-v2"
    """A packaged model's alias, a Hugging Face id, or a folder."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face id."""
    engine: Literal["sentence-transformers", "vllm"] = "sentence-transformers"
    """vllm: its pooling runner, for large models and tables."""
    item_prompt: str = not_hashed("prompts/item_text.j2")
    """Template of an item's text."""
    user_prompt: str = not_hashed("prompts/user_text.j2")
    """Template of a user's text."""
    max_tokens: int = Field(default=128, ge=8, le=2**20)
    """A longer text is cut here."""
    trust_remote_code: bool = False
    """Runs Python code that the model's folder brings along."""
    batch: int = not_hashed(64, ge=1, le=2**20)
    """Texts encoded at once."""
    chunk: int = not_hashed(1024, ge=1, le=2**24)
    """Vectors written to the ledger at a time."""


class Profile(BaseModel):
    """What the LLM answers; every string is bounded, or a small model writes without end."""

    model_config = ConfigDict(extra="forbid")

    profile: str


def profile_schema(max_chars: int) -> dict[str, Any]:
    """JSON schema of `Profile` with its text bounded to `max_chars` characters."""
    schema = Profile.model_json_schema()
    schema["properties"]["profile"] = {"type": "string", "maxLength": max_chars}
    schema.pop("description", None)
    return schema
