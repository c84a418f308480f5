"""The items of a user's history that its prompt shows.

Every (user, item) pair has a priority, a seeded hash of the two external ids; the k lowest are shown (a
bottom-k sketch: a uniform sample without replacement). The sample does not depend on time, order or row numbers, so a
new interaction of a user with n items enters it with probability k / n, and otherwise the prompt is unchanged.
"""

import numpy as np
import polars as pl
import polars.selectors as cs

from darec.common.id_hashing import hash_salted_ids, mix
from darec.common.ranges import by_users
from schemas import columns as c

PRIORITY = "priority"


def choose_pairs(
    train: pl.DataFrame | pl.LazyFrame, users: pl.DataFrame, items: pl.DataFrame, k: int, seed: int
) -> pl.DataFrame:
    """At most `k` train rows per user, those with the lowest priority. Each distinct id is hashed once.

    Args:
        train: user_index and item_index of the train interactions, or of dislikes, and their rating if they have one.
        users: the vocabulary, or a part of it; rows of other users are left out.
        items: the vocabulary of items.
        k: maximum number of rows per user.
        seed: of the priorities.

    Returns:
        These columns of the chosen rows, sorted by user.
    """
    columns = train.lazy().select(c.USER_INDEX, c.ITEM_INDEX, cs.by_name(c.RATING, require_all=False))
    inside = pl.col(c.USER_INDEX).is_in(users[c.USER_INDEX].implode())
    rows = columns.filter(inside).collect(engine="streaming")
    occurring = items.filter(pl.col(c.ITEM_INDEX).is_in(rows[c.ITEM_INDEX].unique().implode()))
    user, item = (
        _by_number(ids[number], hash_salted_ids(ids[name], f"{kind}{seed}"))
        for ids, number, name, kind in (
            (users, c.USER_INDEX, c.USER, "user"),
            (occurring, c.ITEM_INDEX, c.ITEM, "item"),
        )
    )

    def chosen(some: pl.DataFrame) -> pl.DataFrame:
        hashes = user[some[c.USER_INDEX].to_numpy()] ^ mix(item[some[c.ITEM_INDEX].to_numpy()])
        ranked = some.with_columns(pl.Series(PRIORITY, mix(hashes)))
        return ranked.filter(pl.col(PRIORITY).rank("ordinal").over(c.USER_INDEX) <= k).drop(PRIORITY)

    return by_users(rows, c.USER_INDEX, chosen)


def _by_number(numbers: pl.Series, hashes: np.ndarray) -> np.ndarray:
    """The hash of each number, uint64 [largest number + 1]."""
    table = np.zeros(int(numbers.to_numpy().max(initial=-1)) + 1, np.uint64)
    table[numbers.to_numpy()] = hashes
    return table


def pair_priority(users: pl.Series, items: pl.Series, seed: int) -> np.ndarray:
    """One uint64 per pair [n]; the same on every machine and in every version."""
    user, item = hash_salted_ids(users, f"user{seed}"), hash_salted_ids(items, f"item{seed}")
    return mix(user ^ mix(item))
