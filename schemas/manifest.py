"""The manifest of an artifact: `manifest.json`, which is written last into its folder."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"


class FileRecord(BaseModel):
    """One file of an artifact."""

    sha256: str
    bytes: int


class InputRecord(BaseModel):
    """The key of an input artifact, and the hash of the files that the stage reads from it."""

    key: str
    content: str
    files: tuple[str, ...]


class Manifest(BaseModel):
    """What an artifact is, how it was made, and the checksums that verify it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    stage: str
    key: str
    why: tuple[str, ...]
    """Why the stage ran instead of being a hit."""
    fingerprint: dict[str, Any] = Field(validation_alias="material", serialization_alias="material")
    """What was hashed into the key. Manifests call it `material`, as those of version 0.1 do."""
    settings: dict[str, Any] = {}
    """The whole recipe of the run, including the fields that are not part of the key."""
    inputs: dict[str, InputRecord]
    files: dict[str, FileRecord]
    rows: int
    report: dict[str, Any]
    created: datetime
    seconds: float
    peak_memory_mb: float
    code: str
    versions: dict[str, str]
