"""The record of a local copy of a remote source (`darec.dataset.copies`)."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

COPIES = "sources"
"""The folder of a store that holds the copies."""
COPY_FOLDERS = "[0-9a-f]" * 16
"""The glob of the folders of copies in it; other files and folders there are not darec's."""
COPY = "copy.json"
"""The name of a record's file."""


class CopyRecord(BaseModel):
    """The source of a copy, and the folder beside the record that holds the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str
    """The source, as the recipe gives it."""
    generation: str
    """The folder of the data."""
    inner: str = ""
    """The file or glob in this folder that is the source; empty for the whole folder."""
    version: str | None = None
    """The version that the source reported when it was read; None if it reports none."""
    read_at: datetime
    """When the source was last found at this version."""
    files: dict[str, str] = {}
    """The version of each remote file, of those that have one."""
    bytes: dict[str, int] = {}
    """The size of each file of the copy."""
    is_table: bool = False
    """Whether it holds the rows of a table as Parquet, and not unchanged files."""
    holds_people: bool = True
    """Whether it is read as interactions or users."""
    user: str | int | None = None
    """The column of user ids, by name or by number."""
    merge_ids: tuple[str, ...] = ()
    """Differences between user ids that are ignored (`data.merge_ids`)."""
