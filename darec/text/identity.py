"""Identities of models and prompts for keys. Plans need them, so no large library is imported here."""

import re
from pathlib import Path

from darec.common.errors import UserError
from darec.common.files import read_text
from darec.common.hashing import file_sha256
from darec.common.warnings import warn_once
from darec.text.models import identity
from schemas.semantic import LLMConfig

_OWN = Path(__file__).parents[2]
"""The folder that darec is installed from, if it is installed in place (`pip install -e`)."""
_PROMPTS = Path("prompts")


def model_identity(config: LLMConfig) -> str:
    """The identity of this LLM. For a server it consists of names only."""
    if config.engine == "server":
        return f"server:{config.model}@{config.revision}"
    return identity(config.model, config.revision)


def prompt_file(path: str | Path) -> Path:
    """The file of a prompt. Paths are relative to where darec is run; the prompts that come with darec are also found
    from other folders.
    """
    path = Path(path)
    own = _OWN / path
    if path.is_absolute() or path.parent != _PROMPTS or path.exists() or not own.is_file():
        return path
    warn_once(f"{path} is not in the folder where darec is run; the prompt that comes with darec is used [{own}]")
    return own


def prompt_hash(path: str | Path) -> str:
    """The SHA-256 of a prompt file's bytes. Raises UserError if there is no such file."""
    read_prompt(Path(path))
    return file_sha256(prompt_file(path))


def names_variable(path: str | Path, name: str) -> bool:
    """Whether the text of a prompt file contains this word; False for a file that cannot be read, which is reported
    elsewhere."""
    try:
        return re.search(rf"\b{name}\b", read_prompt(Path(path))) is not None
    except UserError:
        return False


def read_prompt(path: Path) -> str:
    """The template's text. Raises UserError if there is no such file or it cannot be read."""
    hint = "correct the path in the recipe"
    if path.parts and not path.is_absolute():  # "." has no parts
        hint += f", or run in the folder that has {path.parts[0]}: a path is relative to where darec is run"
    return read_text(prompt_file(path), "the prompt", hint=hint)
