"""The schema of every table that darec writes: column name to Polars type, in file order, and where nulls are allowed.

A table is checked against its schema when it is written and when it is read (`darec.artifacts.tables`).
"""

from collections.abc import Collection, Mapping

import polars as pl

from schemas import columns as c


class TableSchema(dict[str, pl.DataType]):
    """Column name to Polars type, in file order. Only the columns in `nullable` may hold nulls."""

    def __init__(self, columns: Mapping[str, pl.DataType], nullable: Collection[str] = ()) -> None:
        super().__init__(columns)
        self.nullable = frozenset(nullable)

    @property
    def required(self) -> list[str]:
        """The columns that hold no nulls."""
        return [name for name in self if name not in self.nullable]


PARTS = ("train", "val", "test")  # the values of the column `split`

_ATTRIBUTES = pl.List(pl.Struct({"name": pl.String(), "value": pl.String()}))

INTERACTIONS = TableSchema(
    {
        c.USER: pl.String(),
        c.ITEM: pl.String(),
        c.RATING: pl.Float32(),  # null where the source has none
        c.TIMESTAMP: pl.Int64(),  # seconds since 1970; null where the source has none
        c.SPLIT: pl.String(),  # train, val or test; null unless the source gives the split
    },
    nullable=(c.RATING, c.TIMESTAMP, c.SPLIT),
)
INTERACTION_EXTRAS = TableSchema(  # only if the source has the column and the recipe uses it
    {
        c.NANOSECOND: pl.Int32(),  # within the second of `timestamp`
        c.WEIGHT: pl.Float32(),  # from the event's type, its age and its repeats
    }
)
DISLIKES = TableSchema({c.USER: pl.String(), c.ITEM: pl.String(), c.TIMESTAMP: pl.Int64()}, nullable=(c.TIMESTAMP,))
ITEMS = TableSchema(
    {c.ITEM: pl.String(), c.TITLE: pl.String(), c.DESCRIPTION: pl.String(), c.ATTRIBUTES: _ATTRIBUTES},
    nullable=(c.TITLE, c.DESCRIPTION, c.ATTRIBUTES),
)
USERS = TableSchema({c.USER: pl.String(), c.ATTRIBUTES: _ATTRIBUTES}, nullable=(c.ATTRIBUTES,))

SPLIT_PART = TableSchema(
    {
        c.USER_INDEX: pl.Int32(),
        c.ITEM_INDEX: pl.Int32(),
        c.RATING: pl.Float32(),
        c.TIMESTAMP: pl.Int64(),
    },
    nullable=(c.RATING, c.TIMESTAMP),
)
SPLIT_EXTRAS = TableSchema({c.WEIGHT: pl.Float32()})  # only if the interactions have weights
DISLIKED_PAIRS = TableSchema({c.USER_INDEX: pl.Int32(), c.ITEM_INDEX: pl.Int32()})
USER_VOCABULARY = TableSchema({c.USER_INDEX: pl.Int32(), c.USER: pl.String()})
ITEM_VOCABULARY = TableSchema({c.ITEM_INDEX: pl.Int32(), c.ITEM: pl.String()})

ITEM_PROFILES = TableSchema(
    {
        c.ITEM_INDEX: pl.Int32(),
        c.ITEM: pl.String(),
        c.PROFILE: pl.String(),
        c.SOURCE: pl.String(),
    }
)
USER_PROFILES = TableSchema(
    {
        c.USER_INDEX: pl.Int32(),
        c.USER: pl.String(),
        c.PROFILE: pl.String(),
        c.SOURCE: pl.String(),
    }
)

FALLBACKS = TableSchema({"key": pl.String(), "cause": pl.String()})  # rows whose text comes from metadata

PROFILE_ROWS = TableSchema(  # of the row ledger of profiles
    {
        "key": pl.String(),
        "text": pl.String(),  # empty where the text comes from metadata
        "cause": pl.String(),  # the cause, otherwise empty
        "prompt_tokens": pl.Int32(),
        "output_tokens": pl.Int32(),
        # Number of complete runs that requested a row which failed in the first one; otherwise null. Zero or negative
        # if the last run ended between the two requests of the row: minus the number of runs before it.
        "attempts": pl.Int32(),
        "asked": pl.Int64(),  # time of the last request, in seconds since 1970; otherwise null
    },
    nullable=("attempts", "asked"),
)
VECTOR_ROWS = TableSchema({"key": pl.String(), "vector": pl.Binary()})  # of the row ledgers of text vectors; <f4

EDGES = TableSchema({c.USER_INDEX: pl.Int32(), c.ITEM_INDEX: pl.Int32(), c.WEIGHT: pl.Float32()})

SEEN = TableSchema({c.USER_INDEX: pl.Int32(), c.ITEM_INDEX: pl.Int32()})
SEEN_EXTRAS = TableSchema({c.DISLIKED: pl.Boolean()})  # only where the recipe names dislikes

ITEM_ATTRIBUTES = TableSchema({c.ITEM_INDEX: pl.Int32(), "name": pl.String(), "value": pl.String()})

LISTS = TableSchema(
    {c.USER: pl.String(), c.RANK: pl.Int32(), c.ITEM: pl.String(), c.SCORE: pl.Float32(), c.SOURCE: pl.String()}
)


def with_extras(schema: TableSchema, extras: TableSchema, present: Collection[str]) -> TableSchema:
    """`schema` with those columns of `extras` that are `present`."""
    found = {name: dtype for name, dtype in extras.items() if name in present}
    return TableSchema(schema | found, schema.nullable) if found else schema


def released_users(width: int) -> TableSchema:
    """Users of a bundle, row = user index; `train_count` is the number of train interactions."""
    return TableSchema({c.USER: pl.String(), c.TRAIN_COUNT: pl.Int32(), c.VECTOR: pl.Array(pl.Float32, width)})


def released_items(width: int) -> TableSchema:
    """Items of a bundle, row = item index."""
    vector = pl.Array(pl.Float32, width)
    return TableSchema({c.ITEM: pl.String(), c.TITLE: pl.String(), c.TRAIN_COUNT: pl.Int32(), c.VECTOR: vector})


HISTORY = TableSchema({"epoch": pl.Int32(), "step": pl.Int64(), "name": pl.String(), "value": pl.Float64()})
