"""Processes many interactions in ranges of users, so that memory is bounded by one range."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import polars as pl

_ROWS = 2_000_000  # maximum of a range, unless one user has more


def of_users(rows: pl.DataFrame, user: str) -> Iterator[pl.DataFrame]:
    """The rows of ranges of users (whole numbers from 0 in the column `user`), in ascending order of users.

    Rows keep their order within a range. If there are few rows, the only range is `rows` itself.
    """
    if rows.height <= _ROWS:
        yield rows
        return

    users = rows[user].to_numpy()
    ends = np.cumsum(np.bincount(users))  # end of each user's rows, if they were sorted
    bounds = np.unique([0, *(np.searchsorted(ends, range(_ROWS, rows.height, _ROWS)) + 1), len(ends)])
    starts = [0, *ends[bounds[1:] - 1].tolist()]

    # Every row is read once, regardless of the number of ranges.
    order = None
    if (users[1:] < users[:-1]).any():
        of_user = np.repeat(np.arange(len(bounds) - 1, dtype=np.uint16), np.diff(bounds))
        order = np.argsort(of_user[users], kind="stable").astype(np.uint32)

    for start, stop in pairwise(starts):
        if start < stop:
            yield rows.slice(start, stop - start) if order is None else rows[order[start:stop]]


def by_users(rows: pl.DataFrame, user: str, work: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """The results of `work` for each range, concatenated: equal to `work(rows)` if it sorts by user first."""
    return pl.concat([work(part) for part in of_users(rows, user)])


def renumbered(numbers: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Renumbers integers consecutively from 0. Returns the new numbers, Int32 [len(numbers)], and the values,
    ascending.
    """
    values = numbers.to_numpy()
    present = np.bincount(values) > 0
    places = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return pl.Series(numbers.name, places[values]), pl.Series(np.flatnonzero(present))
