"""Splits interactions into vocabularies and train / val / test: k-core, then a split by user, by time, or as given.

The result does not depend on the order of the input rows. Ids are numbered in sorted order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from darec.common.errors import UserError
from darec.common.id_hashing import hash_ids, mix
from darec.common.ranges import of_users, renumbered
from darec.dataset.errors import AnswerableError
from darec.dataset.numbering import Numbering
from schemas import columns as c
from schemas.data import SplitConfig
from schemas.tables import PARTS, SPLIT_EXTRAS, SPLIT_PART

_LABEL = pl.Enum(PARTS)
_SIDES = (c.USER_INDEX, c.ITEM_INDEX)

Label = Callable[[pl.DataFrame], pl.DataFrame]
"""Adds a column to the rows of whole users."""
Count = Callable[[pl.Expr, pl.Expr], pl.Expr]
"""The number of rows of a user to hold out, given the number of all rows and of available ones."""


@dataclass(frozen=True)
class Split:
    """The output of the split stage.

    A user or item of the vocabulary may have no train row (a late item, an item of the catalogue, or any entity of a
    given split). It keeps its number, and only its text can provide a vector.
    """

    parts: dict[str, pl.DataFrame]
    users: pl.DataFrame
    items: pl.DataFrame
    report: dict[str, Any]


def split_interactions(
    interactions: pl.DataFrame | pl.LazyFrame, config: SplitConfig, catalogue: pl.Series | None = None
) -> Split:
    """Splits clean interactions (columns of `schemas.tables.INTERACTIONS`, unique pairs).

    Ids become numbers while the rows are read, so that each id's text is in memory once and not once per row.

    Args:
        interactions: the rows of all users.
        config: the strategy.
        catalogue: ids of items that are in the vocabulary without regard to their interactions (`split.items: all`).

    Raises:
        UserError: the strategy needs missing timestamps or labels, the k-core is empty, fewer than two users or items
        remain, or a part has no rows.
    """
    source = interactions.lazy()
    _check_strategy(source, config)
    texts = {c.USER_INDEX: Numbering(), c.ITEM_INDEX: Numbering()}
    sides = (texts[index].of(pl.col(name)).alias(index) for index, name in zip(texts, (c.USER, c.ITEM), strict=True))
    core = source.select(*sides, *_kept(source, config)).collect(engine="streaming")
    core, users = _in_order_of_ids(core, c.USER_INDEX, texts)
    core, items = _in_order_of_ids(core, c.ITEM_INDEX, texts)
    rows_in, users_in, items_in, logged = core.height, len(users), len(items), items

    k = 0 if config.strategy == "column" else config.k_core
    core, rounds = k_core(core, k, (c.USER_INDEX,) if config.items == "all" else _SIDES)
    if core[c.USER_INDEX].n_unique() < 2 or core[c.ITEM_INDEX].n_unique() < 2:
        raise _too_little(core, k)

    core, users = _renumbered(core, c.USER_INDEX, users)
    core, items = _renumbered(core, c.ITEM_INDEX, items)
    below = {"users": users_in - len(users), "items": items_in - len(items)}
    if catalogue is not None:
        core, items = _with_catalogue(core, items, catalogue)
        below["items"] = int((~logged.is_in(items.implode())).sum())
    of_k_core = {"rows_in": rows_in, "k_core_rounds": rounds, "below_k_core": below}

    label = _labels(core, users, items, config)
    if config.strategy == "global-time":
        core = _at_one_time(core, config)
    if config.gap_days:
        core, users = _renumbered(core, c.USER_INDEX, users)
        if catalogue is None:
            core, items = _renumbered(core, c.ITEM_INDEX, items)

    order = [c.USER_INDEX, *_time(core), c.ITEM_INDEX]
    of_some_users = of_users(core, c.USER_INDEX)
    del core  # the ranges hold it until the last one has been divided
    parts = _parts(label(some).sort(order) for some in of_some_users)
    _check_parts(parts, config)

    vocabularies = (_vocabulary(users, c.USER_INDEX, c.USER), _vocabulary(items, c.ITEM_INDEX, c.ITEM))
    return Split(parts, *vocabularies, of_k_core | _report(parts, len(users), len(items)))


def _in_order_of_ids(rows: pl.DataFrame, column: str, texts: Mapping[str, Numbering]) -> tuple[pl.DataFrame, pl.Series]:
    """`rows` with the numbers in `column` replaced by the positions of their ids in sorted order, and these ids."""
    ids = texts[column].texts
    order = ids.arg_sort()
    places = np.empty(len(ids), np.int32)
    places[order.to_numpy()] = np.arange(len(ids), dtype=np.int32)
    return rows.with_columns(pl.Series(column, places[rows[column].to_numpy()])), ids.gather(order)


def _kept(source: pl.LazyFrame, config: SplitConfig) -> list[pl.Expr]:
    """The columns that are needed in addition to ids; a label takes one byte per row."""
    names = [name for name in source.collect_schema().names() if name not in (c.USER, c.ITEM, c.SPLIT)]
    label = [pl.col(c.SPLIT).cast(_LABEL)] if config.strategy == "column" else []
    return [*map(pl.col, names), *label]


def _parts(labelled: Iterable[pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The rows of each part, from the labelled rows of one range of users after the other."""
    found: dict[str, list[pl.DataFrame]] = {part: [] for part in PARTS}
    for some in labelled:
        columns = [*SPLIT_PART, *(name for name in SPLIT_EXTRAS if name in some.columns)]
        for part, tables in found.items():
            tables.append(some.filter(pl.col(c.SPLIT) == part).select(columns))
    return {part: pl.concat(tables, rechunk=True) for part, tables in found.items()}


def k_core(rows: pl.DataFrame, k: int, columns: Sequence[str] = _SIDES) -> tuple[pl.DataFrame, int]:
    """The largest set of rows in which every user and item (of `columns`) has at least `k`, and the number of
    rounds.
    """
    rounds = 0
    while k > 1:
        rounds += 1
        sides = (rows[column].to_numpy() for column in columns)
        enough = [(np.bincount(side) >= k)[side] for side in sides]
        kept = rows.filter(pl.Series(np.logical_and.reduce(enough)))
        if kept.height == rows.height:
            break
        rows = kept

    return rows, rounds


def _renumbered(rows: pl.DataFrame, column: str, ids: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """`rows` with the remaining numbers in `column` made consecutive, and their ids."""
    numbers, present = renumbered(rows[column])
    return rows.with_columns(numbers), ids.gather(present)


def _with_catalogue(rows: pl.DataFrame, items: pl.Series, catalogue: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """`rows` with item numbers among the sorted ids of `items` and of the catalogue together, and these ids."""
    every = pl.concat([items, catalogue.alias(items.name)]).unique().sort()
    places = every.search_sorted(items).to_numpy().astype(np.int32)
    return rows.with_columns(pl.Series(c.ITEM_INDEX, places[rows[c.ITEM_INDEX].to_numpy()])), every


def _labels(rows: pl.DataFrame, users: pl.Series, items: pl.Series, config: SplitConfig) -> Label:
    """Gives the rows of whole users their part in `split`; rows that have it already are not changed."""
    if config.strategy == "global-time" or (config.strategy == "column" and not config.val_share):
        return lambda some: some

    draw = _draw(users, items, config.seed)
    if config.strategy == "column":
        train = rows.filter(pl.col(c.SPLIT) == PARTS[0])
        order = [*([] if train[c.TIMESTAMP].null_count() else _time(rows)), "draw"]
        return lambda some: _with_val_of_train(draw(some), order, config.val_share)

    if config.strategy == "leave-one-out":
        order = [*([] if rows[c.TIMESTAMP].null_count() else _time(rows)), "draw"]
        return lambda some: _last_of_each_user(draw(some), order, _one, _one)

    order = [*(_time(rows) if config.strategy == "temporal" else []), "draw"]
    val, test = (_share_of(config.ratios[part]) for part in (1, 2))
    return lambda some: _last_of_each_user(draw(some), order, val, test)


def _draw(users: pl.Series, items: pl.Series, seed: int) -> Label:
    """Adds a number in `draw` that depends only on the pair of ids and the seed.

    It does not change when other rows are added or removed.
    """
    user_hash, item_hash = mix(hash_ids(users) ^ mix(np.array([np.uint64(seed)]))), hash_ids(items)

    def drawn(rows: pl.DataFrame) -> pl.DataFrame:
        draw = mix(user_hash[rows[c.USER_INDEX].to_numpy()] + item_hash[rows[c.ITEM_INDEX].to_numpy()])
        return rows.with_columns(pl.Series("draw", draw))

    return drawn


def _last_of_each_user(rows: pl.DataFrame, order: list[str], val_of: Count, test_of: Count) -> pl.DataFrame:
    """`rows` with each user's last ones labelled test, and those before them val.

    `val_of` and `test_of` give their numbers from the user's rows and the number that is available: train is never
    empty, so 1 row is train, and 2 rows are train and test.
    """
    count = pl.len().over(c.USER_INDEX).cast(pl.Int64)
    left = count - pl.int_range(pl.len()).over(c.USER_INDEX)  # number of the user's rows from this one on
    test = test_of(count, count - 1)
    val = val_of(count, count - 1 - test)
    label = pl.when(left <= test).then(_label("test")).when(left <= test + val).then(_label("val"))
    labelled = label.otherwise(_label("train")).alias(c.SPLIT)

    return rows.sort(c.USER_INDEX, *order, c.ITEM_INDEX).with_columns(labelled)


def _label(part: str) -> pl.Expr:
    return pl.lit(part, _LABEL)


def _share_of(ratio: float) -> Count:
    """A share rounded down, but at least one row if one is available."""

    def share(count: pl.Expr, spare: pl.Expr) -> pl.Expr:
        if ratio == 0:
            return pl.lit(0)
        rounded = (count * ratio + 1e-9).floor().cast(pl.Int64)  # 0.29 * 100 is 28.999...
        return pl.min_horizontal(pl.max_horizontal(rounded, pl.lit(1)), spare)

    return share


def _one(count: pl.Expr, spare: pl.Expr) -> pl.Expr:
    return pl.min_horizontal(pl.lit(1), spare)


def _with_val_of_train(rows: pl.DataFrame, order: list[str], share: float) -> pl.DataFrame:
    """Labelled rows, with a share of each user's last train rows relabelled as val."""
    train = rows.filter(pl.col(c.SPLIT) == PARTS[0])
    divided = _last_of_each_user(train, order, _share_of(share), lambda count, spare: pl.lit(0))
    return pl.concat([divided, rows.filter(pl.col(c.SPLIT) != PARTS[0])])


def _at_one_time(rows: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    """`rows` split at two points in time, the same for all users, so that val and test have their shares."""
    times = rows[c.TIMESTAMP].sort()
    last = len(times) - 1
    test_from = times[min(round(len(times) * (1 - config.ratios[2])), last)]
    val_from = times[min(round(len(times) * config.ratios[0]), last)]
    gap, time = int(config.gap_days * 86_400), pl.col(c.TIMESTAMP)
    label = (
        pl.when(time >= test_from)
        .then(_label("test"))
        .when((time >= val_from) & (time < test_from - gap))
        .then(_label("val"))
        .when(time < val_from - gap)
        .then(_label("train"))
    )

    return rows.with_columns(label.alias(c.SPLIT)).filter(pl.col(c.SPLIT).is_not_null())


def _time(rows: pl.DataFrame) -> list[str]:
    """The columns that order rows by time, at the resolution of the source."""
    return [name for name in (c.TIMESTAMP, c.NANOSECOND) if name in rows.columns]


def _vocabulary(ids: pl.Series, index: str, name: str) -> pl.DataFrame:
    return pl.DataFrame({index: pl.int_range(len(ids), dtype=pl.Int32, eager=True), name: ids})


def _report(parts: dict[str, pl.DataFrame], users: int, items: int) -> dict[str, Any]:
    train, test = parts["train"], parts["test"]
    known, test_cold = {}, {}
    for side, index, size in (("users", c.USER_INDEX, users), ("items", c.ITEM_INDEX, items)):
        counts = np.bincount(train[index].to_numpy(), minlength=size)
        in_test = np.bincount(test[index].to_numpy(), minlength=size)
        known[side], test_cold[side] = int((counts > 0).sum()), int(((counts == 0) & (in_test > 0)).sum())

    rows = {part: table.height for part, table in parts.items()}
    return {
        "rows_out": sum(rows.values()),
        **rows,
        "users": users,
        "items": items,
        "cold_users": users - known["users"],
        "cold_items": items - known["items"],
        "test_cold_users": test_cold["users"],
        "test_cold_items": test_cold["items"],
        "density": sum(rows.values()) / (users * items),
    }


def _check_strategy(interactions: pl.LazyFrame, config: SplitConfig) -> None:
    nulls = interactions.select(pl.col(c.TIMESTAMP, c.SPLIT).null_count()).collect(engine="streaming")
    if config.strategy in ("temporal", "global-time") and nulls[c.TIMESTAMP].item():
        raise UserError(
            f"a {config.strategy} split needs timestamps, and the data has none",
            where="split.strategy",
            hint="set data.interaction_columns.timestamp, or split.strategy to random",
        )

    if config.strategy == "column" and nulls[c.SPLIT].item():
        raise UserError(
            "the split is to be read from the data, and the data has no split labels",
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
            if part == "val":
                hint += ", or take val from train with split.val_share"
            raise UserError(f"no interaction is labelled {part}", where="split.strategy", hint=hint)
        if table.is_empty():
            hint = "raise its share in split.ratios, or give users with at least three interactions"
            raise UserError(f"no interaction is left for {part}", where="split.ratios", hint=hint)
