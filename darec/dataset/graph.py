"""The bipartite train graph as an edge list."""

import polars as pl

from schemas import columns as c
from schemas.data import GraphConfig
from schemas.tables import EDGES


def edge_list(train: pl.LazyFrame, config: GraphConfig) -> pl.LazyFrame:
    """One edge a train row, sorted by user and item, with its weight.

    `symmetric` gives the entries of D^-1/2 A D^-1/2: 1 / sqrt(degree of the user x degree of the item)
    (LightGCN, arXiv 2002.02126, eq. 3).
    """
    users, items = (pl.len().over(column).cast(pl.Float64) for column in (c.USER_INDEX, c.ITEM_INDEX))
    weight = 1 / (users * items).sqrt() if config.weighting == "symmetric" else pl.lit(1.0)
    return (
        train.with_columns(weight.cast(pl.Float32).alias(c.WEIGHT)).select(list(EDGES)).sort(c.USER_INDEX, c.ITEM_INDEX)
    )
