"""Which items of a user's history its prompt shows.

Policy: every (user, item) pair has a priority, a seeded hash of the two external ids; the k lowest are shown (a
bottom-k sketch: a uniform sample without replacement). It depends on neither time nor order nor row numbers, so a new
interaction of a user with n items enters the sample with a chance of k / n, and otherwise leaves the prompt as it was.
"""

import numpy as np
import polars as pl

from darec.common.id_hashing import hash_salted_ids, mix
from schemas import columns as c

PRIORITY = "priority"


def choose_items(interactions: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    """At most `k` rows per user of `interactions` (external ids in user_id, item_id): those of lowest priority."""
    priority = pl.Series(PRIORITY, pair_priority(interactions[c.USER], interactions[c.ITEM], seed))
    return interactions.with_columns(priority).filter(pl.col(PRIORITY).rank("ordinal").over(c.USER) <= k).drop(PRIORITY)


def pair_priority(users: pl.Series, items: pl.Series, seed: int) -> np.ndarray:
    """One uint64 per pair [n]; the same on every machine and in every version."""
    user, item = hash_salted_ids(users, f"user{seed}"), hash_salted_ids(items, f"item{seed}")
    return mix(user ^ mix(item))
