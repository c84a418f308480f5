"""Dislikes in the numbering of a split, and which of them were known at the end of its train part."""

import polars as pl

from darec.dataset.split import Split
from schemas import columns as c
from schemas.data import SplitConfig
from schemas.tables import DISLIKED_PAIRS, PARTS

_BY_TIME = ("temporal", "global-time", "leave-one-out")


def numbered(dislikes: pl.DataFrame, split: Split) -> pl.DataFrame:
    """The pairs whose user and item are in the vocabularies: user_index, item_index and timestamp, sorted by both."""
    known = dislikes.join(split.users, on=c.USER).join(split.items, on=c.ITEM)
    return known.select(*DISLIKED_PAIRS, c.TIMESTAMP).sort(c.USER_INDEX, c.ITEM_INDEX)


def known_in_train(dislikes: pl.DataFrame, split: Split, config: SplitConfig) -> pl.DataFrame:
    """The `dislikes` (from `numbered`) that training may use.

    In a split by time they are older than the user's first held-out interaction. Without times, or if the held-out
    interactions are not the latest, all dislikes count as known.
    """
    if config.strategy not in _BY_TIME or dislikes[c.TIMESTAMP].null_count():
        return dislikes.select(list(DISLIKED_PAIRS))
    held_out = pl.concat([split.parts[part] for part in PARTS[1:]])
    first = held_out.group_by(c.USER_INDEX).agg(pl.col(c.TIMESTAMP).min().alias("until"))
    dated = dislikes.join(first, on=c.USER_INDEX, how="left", maintain_order="left")
    is_known = (pl.col(c.TIMESTAMP) < pl.col("until")).fill_null(True)
    return dated.filter(is_known).select(list(DISLIKED_PAIRS))
