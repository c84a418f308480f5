"""Configuration of the data stages: ingest, split, graph."""

import codecs
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.places import Files, scheme
from schemas.section import Section, added, not_hashed
from schemas.source_names import SOURCES, FormatName

Column = str | int
"""A column: its name in the header, or its number, counted from 1."""

TimeUnit = Literal["s", "ms", "us", "ns", "yyyymmdd", "days", "excel", "order"]

NULL_WORDS = (
    "", "na", "n/a", "nan", "null", "none", "nil", "nat", "undefined", "\\n", "<na>", "<null>", "(null)", "#n/a", "-",
)  # fmt: skip


class FileFormat(Section):
    """The format of a file. Fields that are null follow from `data.source`. `darec data inspect FILE` proposes values
    for a file."""

    format: FormatName | None = None
    """The layout of this file, if it differs from `data.source`."""
    separator: str | None = Field(default=None, min_length=1)
    """The separator between fields, of one or several characters (`::`). `whitespace` means any run of blanks."""
    header: bool | None = None
    """Whether the first line names the columns. Without a header, columns are given by number or by `names`."""
    names: tuple[str, ...] | None = None
    """The names of the columns, in the order of the file. They replace the names of a header."""
    quote: str | None = Field(default=None, pattern="^(.|none)$")
    """The character around fields that contain the separator. `none` means that fields are never quoted."""
    escape: Literal["\\"] | None = None
    """The character that escapes a quote within a field. null means that quotes are doubled."""
    encoding: str | None = None
    """The encoding of text, such as utf-8, utf-16, latin-1, cp1252 or gb18030; null means `data.encoding`."""
    compression: Literal["auto", "none", "gzip", "bz2", "xz", "zstd", "lz4", "zip"] = "auto"
    """auto: recognised by the first bytes of the file. A zip archive must contain exactly one file."""
    skip_lines: int = Field(default=0, ge=0)
    """Number of lines to skip before the header, or before the first row if there is no header. A line such as `sep=;`
    is always skipped."""
    comment: str | None = Field(default=None, min_length=1)
    """Lines that start with this text are skipped."""
    null_values: tuple[str, ...] = NULL_WORDS
    """Values that are read as missing, ignoring case. An empty field is always missing."""
    decimal_comma: bool | None = None
    """Whether ratings are written as 4,5 (and thousands as 1.234). null means that it is recognised from the values."""
    item_separator: str | None = Field(default=None, min_length=1)
    """Separates several items in the item field of one row; the row stands for one interaction with each."""
    item_rating_separator: str | None = Field(default=None, min_length=1)
    """Separates an item of such a list, or of a line `user item:rating item:rating`, from its rating, as `-` does in
    `N29-1 N33-0`."""
    last_takes_rest: bool = added(False)
    """Whether the last column has the rest of a line, with the separators in it. Fields are then never quoted."""
    flatten: bool = added(False)
    """Only for JSON: nested objects become columns, such as `user.id`."""
    records: str | None = added(None)
    """Only for JSON: the field that holds a list of objects. Each of them is a row, with columns such as `events.id`
    beside the other fields of the line. Nested objects become columns too."""
    skip_columns: int = added(0, ge=0)
    """Only for a matrix and for lightgcn: number of columns to skip before those of the items. With lightgcn, the user
    is then the number of the line."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        return encoding if encoding is None else _known_encoding(encoding)


class InteractionColumns(Section):
    """The columns of the interactions file, by name or by number starting at 1. Columns that are null are not read."""

    user: Column = "user_id"
    """The user's id: text or whole number."""
    item: Column = "item_id"
    """The item's id: text or whole number."""
    rating: Column | None = None
    """Ratings as numbers, or yes and no. null for purely implicit data."""
    timestamp: Column | None = None
    """Timestamps, in the forms of `data.timestamp_unit` and `data.timestamp_format`. Required by splits by time."""
    split: Column | None = None
    """Labels train, val (also valid, validation, dev) and test. Required by the split strategy `column`."""
    event: Column | None = added(None)
    """The type of event, such as view or purchase; see `data.events`."""


class ItemColumns(Section):
    """The columns of the items file, by name or by number (from 1)."""

    item: Column = "item_id"
    """The item's id."""
    title: Column | None = "title"
    """The item's title. An item without a title gets its id as the title."""
    description: Column | None = None
    """A longer text."""
    attributes: tuple[Column, ...] | None = None
    """The columns that become attributes. null means every column that is not named above, except row numbers, URLs
    and nested structures."""
    move_articles: bool = added(False)
    """Puts a trailing article back in front: "Matrix, The (1999)" becomes "The Matrix (1999)"."""


class UserColumns(Section):
    """The columns of the users file, by name or by number (from 1)."""

    user: Column = "user_id"
    """The user's id."""
    attributes: tuple[Column, ...] | None = None
    """The columns that become attributes. null means every column but the id, except row numbers, URLs and nested
    structures."""


class DataConfig(Section):
    """Location, format and cleaning of the raw data.

    The key contains the SHA-256 of each source file instead of its path.
    """

    source: str = Field(default="movielens-100k", json_schema_extra={"enum": list(SOURCES)})
    """The layout of the files (csv, tsv, json, parquet, recbole, lightgcn, headings, blocks, matrix), or a public data
    set by name, whose files are expected in `folder` and need no column mapping. MovieLens-100K is fetched if it does
    not exist."""
    folder: Path = not_hashed(Path("data/raw/ml-100k"))
    """Folder of the files of a public data set that is selected by name."""
    interactions: Files | None = not_hashed(None)
    """The interactions: a file, folder, glob or URL (s3://, gs://, az://, https://), a list of them, one for each of
    train, val and test, or a table of a database or lake (`kind: postgresql`, adbc, duckdb, delta or iceberg). Required
    by every source except public data sets by name."""
    items: Files | None = not_hashed(None)
    """The items, in the same forms as the interactions. Without them, the title of an item is its id."""
    users: Files | None = not_hashed(None)
    """The users, in the same forms as the interactions."""
    encoding: str = "utf-8"
    """The encoding of text files; a byte order mark in a file overrides it."""
    interaction_format: FileFormat = added(FileFormat())
    """The format of the interactions file."""
    item_format: FileFormat = added(FileFormat())
    """The format of the items file."""
    user_format: FileFormat = added(FileFormat())
    """The format of the users file."""
    interaction_columns: InteractionColumns = Field(default_factory=InteractionColumns)
    """The columns of the interactions file."""
    item_columns: ItemColumns = Field(default_factory=ItemColumns)
    """The columns of the items file."""
    user_columns: UserColumns = Field(default_factory=UserColumns)
    """The columns of the users file."""
    merge_ids: tuple[Literal["case", "zeros", "spaces"], ...] | None = added(None)
    """Differences between ids that are ignored: upper and lower case, leading zeros, runs of spaces. null keeps such
    ids apart and reports them, and refuses the data if they concern more than `max_bad_share` of the rows. [] keeps
    them apart silently. Surrounding whitespace, invisible characters, Unicode forms and a trailing .0 of whole numbers
    are always ignored."""
    unknown_items: Literal["drop", "keep"] = added("drop")
    """How to treat interactions with items that are not in the items file. drop: they are left out and count as lost.
    keep: the items get their ids as titles."""
    timestamp_unit: TimeUnit | None = added(None)
    """The unit of numeric timestamps since 1970; yyyymmdd: dates as numbers; excel: days as spreadsheets count them,
    25569 for 1970-01-01; order: numbers that only give an order. null means that it is recognised from the values:
    seconds to nanoseconds, or dates as numbers."""
    timestamp_format: str | None = added(None)
    """The format of timestamps as text, such as "%d.%m.%Y %H:%M" (strftime). null means any common format."""
    min_rating: float | None = 4.0
    """Minimum rating of a positive interaction. Rows with lower ratings are left out; null keeps all. The default
    applies only to ratings on a scale of 1 to 5; for other scales it must be set. Without ratings it has no effect."""
    dislike_below: float | None = added(None)
    """Ratings below this value are dislikes. They are written to `dislikes.parquet` instead of being left out."""
    events: dict[str, float] | None = added(None)
    """The event types to read and the weight of each, such as {view: 1, purchase: 5}. Other types are left out. A
    negative weight means a dislike. null gives every row the same weight."""
    repeats: Literal["once", "sum"] = added("once")
    """Weight of several events of one user with one item. once: the largest weight. sum: the sum of their weights."""
    half_life_days: float | None = added(None, gt=0)
    """Half-life of the weight of an interaction, in days before the newest one. null means no decay."""
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    """Maximum fraction of the interactions that may be lost, for any cause. If it is exceeded, the stage ingest fails.
    Ratings below `min_rating`, repeated pairs and event types that are not read do not count as lost."""
    max_unpacked_gb: float = not_hashed(100.0, gt=0)
    """Maximum unpacked size of a compressed file, in GB. A larger file is refused."""

    @property
    def has_dislikes(self) -> bool:
        """Whether some ratings or events are dislikes."""
        by_event = self.events is not None and min(self.events.values(), default=0) < 0
        return self.dislike_below is not None or by_event

    @property
    def has_weights(self) -> bool:
        """Whether interactions get weights, by their event type, age or number."""
        return self.events is not None or self.half_life_days is not None or self.repeats == "sum"

    @field_validator("folder", mode="before")
    @classmethod
    def _is_local(cls, folder: object) -> object:
        if isinstance(folder, str) and scheme(folder) is not None:
            raise ValueError("a public data set is read from a folder of this machine: name its files in interactions")
        return folder

    @field_validator("source")
    @classmethod
    def _is_a_source(cls, source: str) -> str:
        if source not in SOURCES:
            raise ValueError(f"unknown source; known sources: {', '.join(SOURCES)}")
        return source

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        return _known_encoding(encoding)

    @model_validator(mode="after")
    def _has_interactions(self) -> Self:
        if SOURCES[self.source] is None and self.interactions is None:
            raise ValueError(f"source {self.source!r} needs `interactions`, the path of the interactions file")
        columns = self.interaction_columns
        if SOURCES[self.source] is None and self.half_life_days is not None and columns.timestamp is None:
            raise ValueError("half_life_days needs interaction_columns.timestamp")
        if SOURCES[self.source] is None and self.events is not None and columns.event is None:
            raise ValueError("events needs interaction_columns.event, the column of the event types")
        return self


class SplitConfig(Section):
    """How interactions are divided into train, val and test."""

    strategy: Literal["temporal", "random", "column", "global-time", "leave-one-out"] = "temporal"
    """temporal: the latest interactions of each user are test. random: interactions of each user are drawn with `seed`.
    column: the labels of the source, or its files for train, val and test. global-time: one point in time for all
    users. leave-one-out: the last interaction of each user is test and the one before it val; without timestamps they
    are drawn at random."""
    ratios: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Fractions of train, val and test. Not used by `column` and `leave-one-out`."""
    gap_days: float = added(0.0, ge=0)
    """Number of days before val and before test whose interactions are left out. Used by `global-time`."""
    val_share: float = added(0.0, ge=0, lt=1)
    """Fraction of each user's train interactions that becomes val, for sources without val. Used by `column`."""
    k_core: int = Field(default=5, ge=0, le=1_000_000)
    """Users and items with fewer interactions are removed repeatedly until every one has at least this number. 0 keeps
    all. Not used by `column`."""
    items: Literal["core", "all"] = added("core")
    """core: items of the log with enough interactions for `k_core`. all: every item of the items file as well, so that
    new items are in the release with the vector that their text predicts, and items with any interactions of the
    remaining users: `k_core` then applies to users only."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the random split, and of the order of a user's interactions with equal timestamps."""

    @model_validator(mode="after")
    def _ratios_are_shares(self) -> Self:
        needed = self.ratios[:1] if self.strategy in ("column", "leave-one-out") else self.ratios
        if min(self.ratios) < 0 or min(needed) == 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError(f"ratios {self.ratios} must be shares that sum to 1, none of them 0")
        return self


class GraphConfig(Section):
    """How the edges of the bipartite train graph are weighted."""

    weighting: Literal["symmetric", "none"] = "symmetric"
    """symmetric: 1 / sqrt(degree of the user x degree of the item). none: 1."""
    event_weights: Literal["ignore", "linear", "log"] = added("ignore")
    """How the weights of interactions (`data.events`, `data.half_life_days`) are used. ignore: not at all. linear:
    unchanged. log: as log(1 + weight). The degree of a node is then the sum of its weights."""


def _known_encoding(encoding: str) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise ValueError(f"unknown encoding {encoding!r}") from error
    return encoding
