"""How the cleaned data changed since the previous release."""

import polars as pl

from darec.artifacts import files
from darec.common.errors import DarecError
from darec.report.content import Drift, SetChange
from darec.report.source import Source
from schemas import columns as c

_SHOWN = 8  # rising and falling items


def drift(source: Source) -> Drift:
    """Users, items, interactions and the items' popularity, against the release that was in production at the gate."""
    previous = source.previous
    if previous is None:
        raise DarecError("there was no release before this one")
    before, after = (each.read(files.INTERACTIONS) for each in (previous, source))
    kinds = {"users": [c.USER], "items": [c.ITEM], "interactions": [c.USER, c.ITEM]}
    shares = _shares(before, after)
    titles = source.read(files.ITEMS)
    named = shares.join(titles, on=c.ITEM, how="left").with_columns(pl.coalesce(c.TITLE, c.ITEM).alias(c.TITLE))
    return Drift(
        previous=previous.name,
        sets=tuple(_change(name, before.select(columns), after.select(columns)) for name, columns in kinds.items()),
        shift=float((shares["after"] - shares["before"]).abs().sum()) / 2,
        rising=_moved(named.filter(pl.col("change") > 0), descending=True),
        falling=_moved(named.filter(pl.col("change") < 0), descending=False),
    )


def _change(name: str, before: pl.DataFrame, after: pl.DataFrame) -> SetChange:
    before, after = before.unique(), after.unique()
    new = after.join(before, on=before.columns, how="anti").height
    return SetChange(name, before.height, after.height, new, before.height + new - after.height)


def _shares(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """`item_id`, `before`, `after`, `change`: each item's share of all interactions."""
    sides = [
        table.group_by(c.ITEM).agg((pl.len() / table.height).alias(name))
        for name, table in (("before", before), ("after", after))
    ]
    joined = sides[0].join(sides[1], on=c.ITEM, how="full", coalesce=True)
    return joined.with_columns(pl.col("before", "after").fill_null(0.0)).with_columns(
        change=pl.col("after") - pl.col("before")
    )


def _moved(items: pl.DataFrame, descending: bool) -> tuple[tuple[str, float, float], ...]:
    ordered = items.sort("change", c.ITEM, descending=[descending, False])
    return tuple(ordered.select(c.TITLE, "before", "after").head(_SHOWN).iter_rows())
