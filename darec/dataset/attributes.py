"""Attributes of items as single values, by which items are grouped and filtered."""

from collections.abc import Collection

import polars as pl

from schemas import columns as c
from schemas.tables import ITEM_ATTRIBUTES


def attribute_values(items: pl.DataFrame, vocabulary: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
    """One row per item, attribute and value, of schema `ITEM_ATTRIBUTES`, sorted.

    A text such as `Comedy|Drama` or `Comedy, Drama` is a list of values.

    Args:
        items: the items of ingest, with their attributes.
        vocabulary: the items that have a number; others are left out.
        names: the attributes.
    """
    values = (
        vocabulary.join(items.select(c.ITEM, c.ATTRIBUTES), on=c.ITEM)
        .select(c.ITEM_INDEX, c.ATTRIBUTES)
        .explode(c.ATTRIBUTES)
        .drop_nulls()
        .unnest(c.ATTRIBUTES)
        .filter(pl.col("name").is_in(list(names)))
        .with_columns(pl.col("value").str.replace_all(",", "|", literal=True).str.split("|"))
        .explode("value")
        .with_columns(pl.col("value").str.strip_chars())
        .filter(pl.col("value") != "")
    )
    return values.select(list(ITEM_ATTRIBUTES)).unique().sort("name", c.ITEM_INDEX, "value")
