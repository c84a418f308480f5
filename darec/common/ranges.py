"""Work on many interactions for ranges of users in turn, so that it takes the memory of a range."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import polars as pl

_ROWS = 2_000_000  # in a range, unless one user alone has more


def of_users(rows: pl.DataFrame, user: str) -> Iterator[pl.DataFrame]:
    """The rows of ranges of users (whole numbers from 0 in the column `user`), in ascending order of users.

    Rows keep their order within a range. Few rows are one range, which is `rows` itself.
    """
    if rows.height <= _ROWS:
        yield rows
        return
    users = rows[user].to_numpy()
    ends = np.cumsum(np.bincount(users))  # of the rows of each user, if these were sorted
    bounds = np.unique([0, *(np.searchsorted(ends, range(_ROWS, rows.height, _ROWS)) + 1), len(ends)])
    starts = [0, *ends[bounds[1:] - 1].tolist()]

    # Every row is looked at once, however many ranges there are.
    order = None
    if (users[1:] < users[:-1]).any():
        of_user = np.repeat(np.arange(len(bounds) - 1, dtype=np.uint16), np.diff(bounds))
        order = np.argsort(of_user[users], kind="stable").astype(np.uint32)
    for start, stop in pairwise(starts):
        if start < stop:
            yield rows.slice(start, stop - start) if order is None else rows[order[start:stop]]


def by_users(rows: pl.DataFrame, user: str, work: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """What `work` makes of each range, one below the other: the same as `work(rows)` if it sorts by user first."""
    return pl.concat([work(part) for part in of_users(rows, user)], rechunk=True)


def renumbered(numbers: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Whole numbers from 0 made consecutive, Int32 as `numbers` is long, and those that occur, in ascending order."""
    values = numbers.to_numpy()
    present = np.bincount(values) > 0
    places = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return pl.Series(numbers.name, places[values]), pl.Series(np.flatnonzero(present))
