"""What tells a model and a prompt from any other, for keys. A plan asks for these, so nothing heavy is loaded here."""

from pathlib import Path

from darec.common.files import read_text
from darec.common.hashing import file_sha256
from darec.text.models import identity
from schemas.semantic import LLMConfig


def model_identity(config: LLMConfig) -> str:
    """What tells this LLM from any other. Of a server only the names are known."""
    if config.engine == "server":
        return f"server:{config.model}@{config.revision}"
    return identity(config.model, config.revision)


def prompt_hash(path: str | Path) -> str:
    """The SHA-256 of a prompt file's bytes. Raises UserError if there is no such file."""
    read_prompt(Path(path))
    return file_sha256(Path(path))


def read_prompt(path: Path) -> str:
    """The template's text. Raises UserError if there is no such file or it cannot be read."""
    return read_text(path, "the prompt", hint="correct the path in the recipe")
