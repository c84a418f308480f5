"""Configuration of the lists of all users, and the manifest of their folder."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from schemas.rules import RulesConfig
from schemas.secret import without_password
from schemas.section import Section, not_hashed

Format = Literal["parquet", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


def _folder(value: object) -> Path | str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("should be a folder, or an address such as s3://bucket/folder")
    return str(value) if "://" in str(value) else Path(value)


Folder = Annotated[Path | str, PlainValidator(_folder, json_schema_input_type=str), BeforeValidator(without_password)]
"""A local folder as a path, or the address of one in an object store as text."""


class ListsConfig(Section):
    """The best items of every user, written to files after publishing and by `darec recommend --all`."""

    out: Folder = not_hashed(Path("data/lists"))
    """Folder, or an address in an object store such as s3://bucket/lists, which needs `pip install 'darec[cloud]'` and
    takes its credentials from the environment. Existing lists are replaced."""
    k: int = not_hashed(20, ge=1, le=100_000)
    """Number of items in a list."""
    format: Format = not_hashed("parquet")
    """Format of the files. All have the columns `user_id`, `rank`, `item_id`, `score` and `source`."""
    partitions: int = not_hashed(1, ge=1, le=99_999)
    """Number of files. Each holds the lists of a range of users."""


class ListsManifest(BaseModel):
    """`manifest.json` of a folder of lists. It is written last: if it exists, all files are complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str
    """Key of the release's bundle."""
    config: ListsConfig
    rules: RulesConfig = Field(default_factory=RulesConfig)
    users: int
    """Number of users of the release, with or without a list."""
    rows: int
    """Total number of items in all lists."""
    created: datetime
    seconds: float
    files: tuple[str, ...] = ()
    """The files in order, by their names in the folder; empty in manifests of older versions."""
