"""The changes of the cleaned data since the previous release.

Two logs may not fit in memory, so all values are aggregated while they are read.
"""

from itertools import pairwise
from math import ceil

import polars as pl

from darec.artifacts import files
from darec.artifacts.tables import reading
from darec.common.errors import DarecError
from darec.report.content import Drift, SetChange
from darec.report.source import Source
from schemas import columns as c

_SHOWN = 8  # number of rising and of falling items
_ROWS_AT_ONCE = 2_000_000  # number of interactions whose pairs are compared at once


def drift(source: Source) -> Drift:
    """Users, items, interactions and the items' popularity, against the release that was in production at the gate."""
    previous = source.previous
    if previous is None:
        raise DarecError("there is no previous release")

    before, after = (each.scan(files.INTERACTIONS).select(c.USER, c.ITEM) for each in (previous, source))
    with reading(source.artifact(files.INTERACTIONS.stage).path):
        sets = (_entities("users", c.USER, before, after), _entities("items", c.ITEM, before, after))
        shares = _shares(before, after)
        titles = source.scan(files.ITEMS)
        return Drift(
            previous=previous.name,
            sets=(*sets, _pairs(before, after)),
            shift=float((shares["after"] - shares["before"]).abs().sum()) / 2,
            rising=_moved(shares.filter(pl.col("change") > 0), titles, descending=True),
            falling=_moved(shares.filter(pl.col("change") < 0), titles, descending=False),
        )


def _entities(name: str, column: str, before: pl.LazyFrame, after: pl.LazyFrame) -> SetChange:
    """The added and removed distinct values of a column."""
    old, now = (log.select(column).unique().collect(engine="streaming") for log in (before, after))
    return _change(name, old.height, now.height, now.join(old, on=column, how="anti").height)


def _pairs(before: pl.LazyFrame, after: pl.LazyFrame) -> SetChange:
    """The added and removed interactions, for ranges of users in turn: logs are sorted by user."""
    rows = after.select(pl.len()).collect().item()
    users = after.select(c.USER).unique().collect(engine="streaming")[c.USER].sort()
    step = ceil(len(users) / max(1, ceil(rows / _ROWS_AT_ONCE)))
    bounds = [None, *users.gather_every(max(step, 1))[1:], None]

    found = [0, 0, 0]
    for low, high in pairwise(bounds):
        inside = pl.lit(True) if low is None else pl.col(c.USER) >= low
        inside = inside if high is None else inside & (pl.col(c.USER) < high)
        old, now = (log.filter(inside).collect(engine="streaming").unique() for log in (before, after))
        new = now.join(old, on=[c.USER, c.ITEM], how="anti").height
        found = [total + part for total, part in zip(found, (old.height, now.height, new), strict=True)]

    return _change("interactions", *found)


def _change(name: str, before: int, after: int, new: int) -> SetChange:
    return SetChange(name, before, after, new, before + new - after)


def _shares(before: pl.LazyFrame, after: pl.LazyFrame) -> pl.DataFrame:
    """`item_id`, `before`, `after`, `change`: each item's share of all interactions."""
    counts = [log.group_by(c.ITEM).agg(pl.len()).collect(engine="streaming") for log in (before, after)]
    sides = [
        table.select(c.ITEM, (pl.col("len") / table["len"].sum()).alias(name))
        for name, table in zip(("before", "after"), counts, strict=True)
    ]
    joined = sides[0].join(sides[1], on=c.ITEM, how="full", coalesce=True)
    return joined.with_columns(pl.col("before", "after").fill_null(0.0)).with_columns(
        change=pl.col("after") - pl.col("before")
    )


def _moved(shares: pl.DataFrame, titles: pl.LazyFrame, descending: bool) -> tuple[tuple[str, float, float], ...]:
    """Title and both shares of the items with the largest changes, largest first."""
    most = shares.sort("change", c.ITEM, descending=[descending, False]).head(_SHOWN)
    known = titles.select(c.ITEM, c.TITLE).filter(pl.col(c.ITEM).is_in(most[c.ITEM].implode())).collect()
    named = most.join(known, on=c.ITEM, how="left", maintain_order="left")
    return tuple(named.select(pl.coalesce(c.TITLE, c.ITEM), "before", "after").iter_rows())
