"""The record of a local copy of a remote source (`darec.dataset.copies`)."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

COPIES = "sources"
"""The folder of a store that holds the copies."""
COPY = "copy.json"
"""The name of a record's file."""


class CopyRecord(BaseModel):
    """What a copy is of, and which folder beside the record holds the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str
    """What it is a copy of, as the recipe gives it."""
    generation: str
    """The folder of the data."""
    inner: str = ""
    """The file or glob in this folder that is the source; empty for the whole folder."""
    version: str | None = None
    """What the source called its state when it was read; None if it does not say."""
    read_at: datetime
    """When the source was last found in this state."""
    files: dict[str, str] = {}
    """The version of each remote file, of those that have one."""
    bytes: dict[str, int] = {}
    """The size of each file of the copy."""
    is_table: bool = False
    """Whether it holds the rows of a table as Parquet, not files as they are."""
    holds_people: bool = True
    """Whether it is read as interactions or users."""
    user: str | int | None = None
    """The column of user ids, by name or by number."""
    merge_ids: tuple[str, ...] = ()
    """Differences between user ids that are ignored (`data.merge_ids`)."""
