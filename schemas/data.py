"""Configuration of the data stages: ingest, split, graph."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.section import Section, not_hashed


class InteractionColumns(Section):
    """What the columns of the interactions file are called. Columns set to null are not read."""

    user: str = "user_id"
    """The user's id: text or whole number."""
    item: str = "item_id"
    """The item's id: text or whole number."""
    rating: str | None = None
    """A number; null for purely implicit data."""
    timestamp: str | None = None
    """Seconds since 1970, a date, or an ISO 8601 text. Needed by the temporal split."""
    split: str | None = None
    """A label: train, val or test. Needed by the split strategy `column`."""


class ItemColumns(Section):
    """What the columns of the items file are called."""

    item: str = "item_id"
    """The item's id."""
    title: str | None = "title"
    """The item's title; an item without one is called by its id."""
    description: str | None = None
    """A longer text."""
    attributes: tuple[str, ...] | None = None
    """The columns that become attributes; null means every column that is not named above."""


class UserColumns(Section):
    """What the columns of the users file are called."""

    user: str = "user_id"
    """The user's id."""
    attributes: tuple[str, ...] | None = None
    """The columns that become attributes; null means every column but the id."""


class DataConfig(Section):
    """Where the raw data is, what it looks like, and how it is cleaned.

    Paths stay out of the key: the SHA-256 of each source file is in it instead.
    """

    source: Literal["movielens-100k", "csv", "tsv", "parquet", "recbole"] = "movielens-100k"
    """The layout of the source. MovieLens-100K is fetched if it is not there, and needs no column mapping."""
    folder: Path = not_hashed(Path("data/raw/ml-100k"))
    """Only for movielens-100k: the folder of its files, either GroupLens's own or RecBole's copy."""
    interactions: Path | None = not_hashed(None)
    """The interactions file; needed by every source but movielens-100k."""
    items: Path | None = not_hashed(None)
    """The items file. Without one every item is called by its id."""
    users: Path | None = not_hashed(None)
    """The users file."""
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"
    """The encoding of CSV, TSV and RecBole files."""
    interaction_columns: InteractionColumns = Field(default_factory=InteractionColumns)
    item_columns: ItemColumns = Field(default_factory=ItemColumns)
    user_columns: UserColumns = Field(default_factory=UserColumns)
    min_rating: float | None = 4.0
    """Ratings below it are no sign of liking and are left out; null keeps all. Without ratings it does nothing."""
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    """Ingest refuses interactions of which more than this share is malformed, rather than dropping them."""

    @model_validator(mode="after")
    def _has_interactions(self) -> Self:
        if self.source != "movielens-100k" and self.interactions is None:
            raise ValueError(f"source {self.source!r} needs `interactions`, the path of the interactions file")
        return self


class SplitConfig(Section):
    """How interactions are divided into train, val and test, user by user."""

    strategy: Literal["temporal", "random", "column"] = "temporal"
    """temporal: each user's latest interactions are test. random: drawn by `seed`. column: the source's own labels."""
    ratios: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """The shares of train, val and test; not used by `column`."""
    k_core: int = Field(default=5, ge=0, le=1_000_000)
    """Users and items with fewer interactions are left out, until none are left; 0 keeps all. Not used by `column`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Draws the random split, and the order of interactions of one user with equal timestamps."""

    @model_validator(mode="after")
    def _ratios_are_shares(self) -> Self:
        needed = self.ratios[:1] if self.strategy == "column" else self.ratios
        if min(self.ratios) < 0 or min(needed) == 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError(f"ratios {self.ratios} must be shares that sum to 1, none of them 0")
        return self


class GraphConfig(Section):
    """How the edges of the bipartite train graph are weighted."""

    weighting: Literal["symmetric", "none"] = "symmetric"
    """symmetric: 1 / sqrt(degree of the user x degree of the item). none: 1."""
