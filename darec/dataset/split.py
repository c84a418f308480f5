"""Interactions to vocabularies and train / val / test: k-core, then a division of each user's own interactions.

Whatever the order of the input rows, the result is the same. Numbers are given to ids in their sorted order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from darec.common.errors import UserError
from darec.common.hashing import hash_ids, mix
from darec.dataset.errors import AnswerableError
from schemas import columns as c
from schemas.data import SplitConfig
from schemas.tables import PARTS, SPLIT_PART


@dataclass(frozen=True)
class Split:
    """What the split stage writes.

    A user or item of the vocabulary may have no train row (an item that only appeared late, any entity of a given
    split): it keeps its number, and is a cold start that only its text can help.
    """

    parts: dict[str, pl.DataFrame]
    users: pl.DataFrame
    items: pl.DataFrame
    report: dict[str, Any]


def split_interactions(interactions: pl.DataFrame, config: SplitConfig) -> Split:
    """Divides clean interactions (columns of `schemas.tables.INTERACTIONS`, pairs unique).

    Raises:
        UserError: the strategy needs timestamps or labels that are not there, the k-core is empty, fewer than two
            users or items remain, or a part has no rows.
    """
    _check_strategy(interactions, config)
    users, items = (interactions[column].unique().sort() for column in (c.USER, c.ITEM))
    numbered = interactions.select(
        pl.col(c.USER).cast(pl.Enum(users)).to_physical().cast(pl.Int32).alias(c.USER_INDEX),
        pl.col(c.ITEM).cast(pl.Enum(items)).to_physical().cast(pl.Int32).alias(c.ITEM_INDEX),
        *(name for name in interactions.columns if name not in (c.USER, c.ITEM)),
    )
    k = 0 if config.strategy == "column" else config.k_core
    core, rounds = k_core(numbered, k)
    if core[c.USER_INDEX].n_unique() < 2 or core[c.ITEM_INDEX].n_unique() < 2:
        raise _too_little(core, k)
    core, users = _renumbered(core, c.USER_INDEX, users)
    core, items = _renumbered(core, c.ITEM_INDEX, items)
    labelled = core if config.strategy == "column" else _labelled(core, users, items, config)
    ordered = labelled.sort(c.USER_INDEX, *_time(labelled), c.ITEM_INDEX)
    parts = {part: ordered.filter(pl.col(c.SPLIT) == part).select(list(SPLIT_PART)) for part in PARTS}
    _check_parts(parts, config)
    vocabularies = (_vocabulary(users, c.USER_INDEX, c.USER), _vocabulary(items, c.ITEM_INDEX, c.ITEM))
    return Split(parts, *vocabularies, _report(interactions.height, parts, len(users), len(items), rounds))


def k_core(rows: pl.DataFrame, k: int) -> tuple[pl.DataFrame, int]:
    """The largest set of rows in which every user and item has at least `k`, and the rounds it took to find it."""
    rounds = 0
    while k > 1:
        rounds += 1
        enough = [pl.len().over(column) >= k for column in (c.USER_INDEX, c.ITEM_INDEX)]
        kept = rows.filter(*enough)
        if kept.height == rows.height:
            break
        rows = kept
    return rows, rounds


def _renumbered(rows: pl.DataFrame, column: str, ids: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """`rows` with the numbers that still occur in `column` made consecutive, and their ids."""
    present = rows[column].unique().sort()
    numbers = present.search_sorted(rows[column]).cast(pl.Int32)
    return rows.with_columns(numbers.alias(column)), ids.gather(present)


def _labelled(rows: pl.DataFrame, users: pl.Series, items: pl.Series, config: SplitConfig) -> pl.DataFrame:
    """`rows` with each user's last ones labelled test, those before val, by time or by a draw.

    val and test get their share rounded down, but one row as soon as the user has rows to spare for it: of 1 row it
    is train, of 2 train and test, of 3 each part. Train never goes empty. The draw depends on the pair of ids and the
    seed alone, so that other rows' coming and going does not change it.
    """
    seed = np.uint64(config.seed)
    user_hash, item_hash = mix(hash_ids(users) ^ mix(np.array([seed]))), hash_ids(items)
    draw = mix(user_hash[rows[c.USER_INDEX].to_numpy()] + item_hash[rows[c.ITEM_INDEX].to_numpy()])
    time = _time(rows) if config.strategy == "temporal" else []
    ordered = rows.with_columns(pl.Series("draw", draw)).sort(c.USER_INDEX, *time, "draw", c.ITEM_INDEX)
    count = pl.len().over(c.USER_INDEX).cast(pl.Int64)
    left = count - pl.int_range(pl.len()).over(c.USER_INDEX)  # rows of the user from this one on
    test = _share(count, config.ratios[2], count - 1)
    val = _share(count, config.ratios[1], count - 1 - test)
    label = (
        pl.when(left <= test)
        .then(pl.lit("test"))
        .when(left <= test + val)
        .then(pl.lit("val"))
        .otherwise(pl.lit("train"))
    )
    return ordered.with_columns(label.alias(c.SPLIT))


def _time(rows: pl.DataFrame) -> list[str]:
    """The columns that order rows in time, at the resolution of the source."""
    return [name for name in (c.TIMESTAMP, c.NANOSECOND) if name in rows.columns]


def _share(count: pl.Expr, ratio: float, spare: pl.Expr) -> pl.Expr:
    if ratio == 0:
        return pl.lit(0)
    rounded = (count * ratio + 1e-9).floor().cast(pl.Int64)  # 0.29 * 100 is 28.999...
    return pl.min_horizontal(pl.max_horizontal(rounded, pl.lit(1)), spare)


def _vocabulary(ids: pl.Series, index: str, name: str) -> pl.DataFrame:
    return pl.DataFrame({index: pl.int_range(len(ids), dtype=pl.Int32, eager=True), name: ids})


def _report(rows_in: int, parts: dict[str, pl.DataFrame], users: int, items: int, rounds: int) -> dict[str, Any]:
    train = parts["train"]
    rows = {part: table.height for part, table in parts.items()}
    return {
        "rows_in": rows_in,
        "rows_out": sum(rows.values()),
        **rows,
        "users": users,
        "items": items,
        "cold_users": users - train[c.USER_INDEX].n_unique(),
        "cold_items": items - train[c.ITEM_INDEX].n_unique(),
        "density": sum(rows.values()) / (users * items),
        "k_core_rounds": rounds,
    }


def _check_strategy(interactions: pl.DataFrame, config: SplitConfig) -> None:
    if config.strategy == "temporal" and interactions[c.TIMESTAMP].null_count():
        raise UserError(
            "a temporal split needs timestamps, and the data has none",
            where="split.strategy",
            hint="set data.interaction_columns.timestamp, or split.strategy to random",
        )
    if config.strategy == "column" and interactions[c.SPLIT].null_count():
        raise UserError(
            "the split shall be taken from the data, and the data has no split labels",
            where="split.strategy",
            hint="set data.interaction_columns.split, or split.strategy to temporal or random",
        )


def _too_little(core: pl.DataFrame, k: int) -> UserError:
    users, items = core[c.USER_INDEX].n_unique(), core[c.ITEM_INDEX].n_unique()
    left = f"{users} users and {items} items are left"
    if k > 1:
        what = f"{left} with at least {k} interactions each; at least two of both are needed"
        hint, settings = "lower split.k_core, or give more data", {"split": {"k_core": 0}}
        return AnswerableError(what, where="split.k_core", hint=hint, settings=settings)
    return UserError(f"{left}; at least two of both are needed", where="interactions", hint="give more data")


def _check_parts(parts: dict[str, pl.DataFrame], config: SplitConfig) -> None:
    for part, table in parts.items():
        if table.is_empty() and config.strategy == "column":
            hint = f"label some interactions {part}, or set split.strategy to temporal or random"
            raise UserError(f"no interaction is labelled {part}", where="split.strategy", hint=hint)
        if table.is_empty():
            hint = "raise its share in split.ratios, or give users with at least three interactions"
            raise UserError(f"no interaction is left for {part}", where="split.ratios", hint=hint)
