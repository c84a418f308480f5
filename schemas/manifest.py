"""What an artifact says about itself: `manifest.json`, written last into its folder."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"


class FileRecord(BaseModel):
    """One file of an artifact."""

    sha256: str
    bytes: int


class InputRecord(BaseModel):
    """Where an input came from, and the hash of the files of it that the stage could see."""

    key: str
    content: str
    files: tuple[str, ...]


class Manifest(BaseModel):
    """Everything needed to say what an artifact is, how it was made, and whether it is whole."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    stage: str
    key: str
    why: tuple[str, ...]
    """Why the stage ran instead of being a hit."""
    fingerprint: dict[str, Any] = Field(validation_alias="material", serialization_alias="material")
    """What was hashed into the key. Manifests call it `material`, as those of version 0.1 do."""
    settings: dict[str, Any] = {}
    """The whole recipe in force, with the fields that are not in the key but explain the cost."""
    inputs: dict[str, InputRecord]
    files: dict[str, FileRecord]
    rows: int
    report: dict[str, Any]
    created: datetime
    seconds: float
    peak_memory_mb: float
    code: str
    versions: dict[str, str]
