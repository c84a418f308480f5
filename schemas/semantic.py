"""Configuration of the semantic subflow (LLM, profiles, text vectors), and the schema of the LLM's answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.secret import SecretURL, ServerURL
from schemas.section import Section, alike, not_hashed


class RayConfig(Section):
    """The Ray cluster that `engine: ray` uses, and the resources of each actor. An actor runs one vLLM engine."""

    address: str = not_hashed("")
    """Address of the cluster, as HOST:PORT or ray://HOST:PORT. Empty: the value of `RAY_ADDRESS`. Without it, Ray is
    started on this machine for the duration of the stage.
    """
    actors: int = not_hashed(0, ge=0, le=65_536)
    """Number of actors. 0 means as many as fit on the machines of the cluster, including machines that join later."""
    gpus: int | None = not_hashed(None, ge=0, le=1)
    """Number of GPUs per actor. null means one if a machine of the cluster has a GPU, otherwise none."""
    cpus: int = not_hashed(1, ge=1, le=1_024)
    """Number of CPU cores per actor. Without a GPU this is also the number of threads of its engine."""


class LLMConfig(Section):
    """The language model and how it is run."""

    model: str = "smollm2-135m-instruct"
    """Alias of a packaged model, Hugging Face id, or folder. With `engine: server`, the name of the model on the
    server."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face model."""
    engine: Literal["offline", "server", "ray"] = alike("offline", ray="offline")
    """offline: vLLM in worker processes. server: a running server with an OpenAI-compatible API. ray: vLLM in actors
    of a Ray cluster, with the same rows as offline."""
    ray: RayConfig = not_hashed(RayConfig())
    """With `engine: ray`, the cluster and its actors."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights. auto: bfloat16 if the device supports it in hardware, else float32."""
    max_model_len: int = Field(default=2048, ge=128, le=2**24)
    """Maximum length of prompt and answer together, in tokens. If a prompt is longer, its longest texts are
    truncated."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature. 0 is greedy decoding."""
    frequency_penalty: float = Field(default=0.3, ge=-2, le=2)
    """Penalty on tokens by how often they have occurred in the answer. It keeps small models from repeating words; use
    0 for a large model."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of sampling. Each row has its own random stream."""
    trust_remote_code: bool = False
    """Runs Python code from the folder of the model. Leave it off unless you have read that code."""
    workers: int = not_hashed(0, ge=0, le=1_024)
    """Number of engine processes. 0 means one per core on CPU, and one on GPU."""
    kv_cache_mib: int = not_hashed(512, ge=64, le=2**24)
    """Memory of the key-value cache per CPU worker, in MiB. On GPU, vLLM chooses it."""
    batch: int = not_hashed(64, ge=1, le=2**20)
    """Maximum number of rows that one engine processes at the same time."""
    chunk: int = not_hashed(0, ge=0, le=2**24)
    """Number of rows that are given to an offline engine and written to the ledger at a time. 0 means 64 on CPU and
    2048 on GPU. Answers of a server are written as they arrive."""
    server_url: ServerURL = not_hashed(SecretURL("http://127.0.0.1:8000/v1"))
    """Base URL of the server. A user, password or query value in it is sent to the server and is never shown."""
    server_urls: tuple[ServerURL, ...] = not_hashed((), max_length=1_024)
    """Base URLs of several servers of the same model, instead of `server_url`. A faster server gets more rows, and the
    rows of a server that fails are sent to the others."""
    api_key_env: str = not_hashed("DAREC_LLM_API_KEY")
    """Environment variable that holds the API key of the server. If it is not set, no key is sent."""
    concurrency: int = not_hashed(128, ge=1, le=65_536)
    """Maximum number of open requests at a server."""
    retries: int = not_hashed(5, ge=0, le=1_000)
    """Number of retries after a transient error, with exponential backoff."""
    timeout: float = not_hashed(300.0, gt=0, le=604_800)
    """Timeout of a request to the server, in seconds, for the whole answer."""
    max_fallback_share: float = not_hashed(0.25, ge=0, le=1)
    """Maximum fraction of the rows of a profile stage without a usable answer of the LLM. If it is exceeded, the stage
    fails. All answers are kept, and the next run requests the missing ones again."""
    fallback_retries: int = not_hashed(3, ge=0, le=1_000)
    """Number of later runs in which a row without a usable answer is requested again. 0 means none."""
    fallback_retry_share: float = not_hashed(0.1, ge=0, le=1)
    """Maximum fraction of the rows of a stage that is requested again in one run (at least one row), shortest prompts
    first."""
    fallback_retry_hours: float = not_hashed(12.0, ge=0, le=8_760)
    """Minimum time before a row without a usable answer is requested again, in hours."""

    price_per_million_input: float = not_hashed(0.0, ge=0, le=1_000_000)
    """Price of a million prompt tokens, in any currency. With a price, plans and `darec prompt try` show the cost."""
    price_per_million_output: float = not_hashed(0.0, ge=0, le=1_000_000)
    """Price of a million output tokens, in the same currency."""
    max_tokens_per_run: int = not_hashed(0, ge=0, le=2**53)
    """Maximum number of prompt and output tokens of one run. When it is reached, the run stops, all answers are kept,
    and the next run continues from there. 0 means no limit."""
    max_cost_per_run: float = not_hashed(0.0, ge=0, le=1e12)
    """Maximum cost of one run at the two prices above. The run stops as with `max_tokens_per_run`. 0 means no limit."""
    batch_api: bool = not_hashed(False)
    """Sends rows as batches (OpenAI's `/files` and `/batches`). A server answers them within hours, usually at half the
    price. Rows that a batch does not answer, and retries of unusable answers, are sent as single requests."""
    batch_min_rows: int = not_hashed(100, ge=1, le=50_000)
    """Minimum number of rows in a batch. Fewer rows are sent as single requests."""
    batch_hours: float = not_hashed(24.0, gt=0, le=720)
    """Maximum time that a run waits for its batches, in hours. Then it stops, and the next run reads their answers."""
    batch_poll_seconds: float = not_hashed(30.0, gt=0, le=86_400)
    """Interval between two status requests for a batch, in seconds."""
    batch_price_share: float = not_hashed(0.5, ge=0, le=1)
    """Price of a row in a batch, as a fraction of the price of a single request."""

    @property
    def servers(self) -> tuple[SecretURL, ...]:
        """The base URLs of all servers."""
        return self.server_urls or (self.server_url,)


class ItemProfileConfig(Section):
    """Profiles of items: what an item is like and who enjoys it."""

    prompt: str = not_hashed("prompts/item_profile.j2")
    """Jinja template with the blocks `system` and `user`."""
    max_tokens: int = Field(default=40, ge=8, le=65_536)
    """Maximum number of tokens of one answer, including the JSON around the text."""
    max_chars: int = Field(default=90, ge=20, le=4000)
    """Maximum length of a profile, in characters. The grammar ends the text there."""


class UserProfileConfig(Section):
    """Profiles of users, from a sample of their train items."""

    prompt: str = not_hashed("prompts/user_profile.j2")
    """Jinja template with the blocks `system` and `user`."""
    max_tokens: int = Field(default=40, ge=8, le=65_536)
    """Maximum number of tokens of one answer, including the JSON around the text."""
    max_chars: int = Field(default=90, ge=20, le=4000)
    """Maximum length of a profile, in characters. The grammar ends the text there."""
    items: int = Field(default=3, ge=1, le=100)
    """Number of items of a user's history in the prompt: those with the smallest hash of user and item. A new
    interaction then changes the prompt of a user with n items only with probability items / n."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of that hash."""


class EmbedConfig(Section):
    """Text vectors of items and users."""

    model: str = "all-minilm-l6-v2"
    """Alias of a packaged model, Hugging Face id, or folder."""
    revision: str = "main"
    """Branch, tag or commit of a Hugging Face model."""
    engine: Literal["sentence-transformers", "vllm", "ray"] = alike("sentence-transformers", ray="vllm")
    """Library that computes the vectors. vllm: the pooling runner, for large models and tables. ray: the same in the
    actors of a Ray cluster, with the same vectors as vllm."""
    ray: RayConfig = not_hashed(RayConfig())
    """With `engine: ray`, the cluster and its actors."""
    item_prompt: str = not_hashed("prompts/item_text.j2")
    """Jinja template of the text of an item."""
    user_prompt: str = not_hashed("prompts/user_text.j2")
    """Jinja template of the text of a user."""
    max_tokens: int = Field(default=128, ge=8, le=2**20)
    """Maximum length of a text, in tokens. Longer texts are truncated."""
    trust_remote_code: bool = False
    """Runs Python code from the folder of the model."""
    batch: int = not_hashed(64, ge=1, le=2**20)
    """Batch size of the encoder."""
    chunk: int = not_hashed(1024, ge=1, le=2**24)
    """Number of vectors that are written to the ledger at a time."""


class Profile(BaseModel):
    """The answer of the LLM. The length of the text is bounded because a small model may never stop."""

    model_config = ConfigDict(extra="forbid")

    profile: str


def profile_schema(max_chars: int) -> dict[str, Any]:
    """JSON schema of `Profile` with its text bounded to `max_chars` characters."""
    schema = Profile.model_json_schema()
    schema["properties"]["profile"] = {"type": "string", "maxLength": max_chars}
    schema.pop("description", None)
    return schema
