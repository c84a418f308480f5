"""Configuration of the lists of all users, and the manifest of their folder."""

from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from schemas.rules import RulesConfig
from schemas.section import Section, not_hashed

Format = Literal["parquet", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


class ListsConfig(Section):
    """The best items of every user, written to files after publishing and by `darec recommend --all`."""

    out: Path = not_hashed(Path("data/lists"))
    """Local folder. Lists that are there are replaced."""
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
