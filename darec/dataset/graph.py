"""The bipartite train graph as an edge list."""

import polars as pl

from darec.common.errors import UserError
from schemas import columns as c
from schemas.data import GraphConfig
from schemas.tables import EDGES


def edge_list(train: pl.LazyFrame, config: GraphConfig) -> pl.LazyFrame:
    """One edge per train row, sorted by user and item, with its weight.

    `symmetric` gives the entries of D^-1/2 A D^-1/2: w / sqrt(degree of the user x degree of the item), where w = 1 and
    degrees are counts (LightGCN, arXiv 2002.02126, eq. 3), or w is the weight of the interaction and degrees are sums
    of w.

    Raises:
        UserError: the configuration uses weights of interactions, and there are none.
    """
    size = pl.lit(1.0)
    degrees = [pl.len().over(column).cast(pl.Float64) for column in (c.USER_INDEX, c.ITEM_INDEX)]
    if config.event_weights != "ignore":
        if c.WEIGHT not in train.collect_schema():
            hint = "set data.events or data.half_life_days, or graph.event_weights to ignore"
            raise UserError("the interactions have no weights", where="graph.event_weights", hint=hint)
        size = pl.col(c.WEIGHT).cast(pl.Float64)
        size = size.log1p() if config.event_weights == "log" else size
        degrees = [size.sum().over(column) for column in (c.USER_INDEX, c.ITEM_INDEX)]

    weight = size / (degrees[0] * degrees[1]).sqrt() if config.weighting == "symmetric" else size
    return (
        train.with_columns(weight.cast(pl.Float32).alias(c.WEIGHT)).select(list(EDGES)).sort(c.USER_INDEX, c.ITEM_INDEX)
    )
