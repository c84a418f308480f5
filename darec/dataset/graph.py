"""The bipartite train graph as an edge list."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.common.ranges import by_users
from schemas import columns as c
from schemas.data import GraphConfig
from schemas.tables import EDGES


def edge_list(train: pl.LazyFrame, config: GraphConfig) -> pl.DataFrame:
    """One edge per train row, sorted by user and item, with its weight.

    `symmetric` gives the entries of D^-1/2 A D^-1/2: w / sqrt(degree of the user x degree of the item), where w = 1 and
    degrees are counts (LightGCN, arXiv 2002.02126, eq. 3), or w is the weight of the interaction and degrees are sums
    of w.

    Raises:
        UserError: the configuration uses weights of interactions, and there are none.
    """
    columns = [c.USER_INDEX, c.ITEM_INDEX]
    size = pl.lit(1.0)
    if config.event_weights != "ignore":
        if c.WEIGHT not in train.collect_schema():
            hint = "set data.events or data.half_life_days, or graph.event_weights to ignore"
            raise UserError("the interactions have no weights", where="graph.event_weights", hint=hint)
        columns.append(c.WEIGHT)
        size = pl.col(c.WEIGHT).cast(pl.Float64)
        size = size.log1p() if config.event_weights == "log" else size

    rows = train.select(columns).collect(engine="streaming")
    degrees = [_degrees(rows, column, size) for column in (c.USER_INDEX, c.ITEM_INDEX)]

    def weighted(some: pl.DataFrame) -> pl.DataFrame:
        weight = size
        if config.weighting == "symmetric":
            of_user, of_item = (degree[some[side].to_numpy()] for side, degree in zip(columns, degrees, strict=False))
            weight = size / pl.Series(np.sqrt(of_user * of_item))
        edges = some.with_columns(weight.cast(pl.Float32).alias(c.WEIGHT)).select(list(EDGES))
        return edges.sort(c.USER_INDEX, c.ITEM_INDEX)

    return by_users(rows, c.USER_INDEX, weighted)


def _degrees(rows: pl.DataFrame, column: str, size: pl.Expr) -> NDArray[np.float64]:
    """The sum of `size` over the rows of each number of a column, by number."""
    numbers = rows[column].to_numpy()
    if c.WEIGHT not in rows.columns:
        return np.bincount(numbers).astype(np.float64)
    return np.asarray(np.bincount(numbers, weights=rows.select(size).to_series().to_numpy()), np.float64)
