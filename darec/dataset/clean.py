"""Raw tables made clean: every problem is counted, repaired by leaving the row out, or refused."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from darec.common.errors import UserError
from darec.dataset.raw import RawTable, reading
from darec.dataset.readers import RawData
from darec.dataset.typed import as_id, as_rating, as_seconds
from schemas import columns as c
from schemas.data import DataConfig
from schemas.tables import INTERACTIONS, ITEMS, PARTS, USERS, TableSchema

_PROBLEMS = {  # of one row, most telling first -> the column at fault, and what the user can do
    "empty_user": (c.USER, "fill the user ids, or correct data.interaction_columns.user"),
    "empty_item": (c.ITEM, "fill the item ids, or correct data.interaction_columns.item"),
    "not_a_number": (c.RATING, "ratings must be numbers: correct data.interaction_columns.rating, or set it to null"),
    "not_finite": (c.RATING, "fix the NaN and infinite ratings, or set data.interaction_columns.rating to null"),
    "not_a_time": (c.TIMESTAMP, "write seconds since 1970 or ISO 8601, or correct data.interaction_columns.timestamp"),
    "before_1970": (c.TIMESTAMP, "fix the negative timestamps, or correct data.interaction_columns.timestamp"),
    "unknown_split": (c.SPLIT, "use the labels train, val and test, or correct data.interaction_columns.split"),
    "unknown_item": (c.ITEM, "use the same ids in both files: correct data.items or data.item_columns.item"),
    "below_min_rating": (c.RATING, "lower data.min_rating, or set it to null"),
    "duplicate": (c.ITEM, "give more rows"),
}
_NOT_MALFORMED = {"unknown_item", "below_min_rating", "duplicate"}
_CATALOGUE_ID = "catalogue_id"


@dataclass(frozen=True)
class CleanData:
    """The three tables of `schemas.tables`, each sorted by id, and the counts of what it took to get there."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    report: dict[str, Any]


def clean(raw: RawData, config: DataConfig) -> CleanData:
    """Cleans all three tables. Users and items of the interactions are always in theirs, with what is known of them.

    Raises:
        UserError: something cannot be fixed (two different rows of one item, unknown split labels, a column of a
            wrong type), more than `max_bad_share` of the interactions is malformed, or none is left.
    """
    items, items_report = clean_entities(raw.items, c.ITEM, ITEMS)
    users, users_report = clean_entities(raw.users, c.USER, USERS)
    interactions, left_out = clean_interactions(raw.interactions, items if raw.items else None, config)
    n_users, n_items = (interactions[column].n_unique() for column in (c.USER, c.ITEM))
    report = {
        "rows_in": interactions.height + sum(left_out.values()),
        "rows_out": interactions.height,
        "left_out": left_out,
        "users": n_users,
        "items": n_items,
        "density": interactions.height / (n_users * n_items),
        "items_file": items_report,
        "users_file": users_report,
    }
    items = _with_missing(items, interactions, c.ITEM, ITEMS).with_columns(_title())
    return CleanData(interactions, items, _with_missing(users, interactions, c.USER, USERS), report)


def clean_interactions(
    raw: RawTable, items: pl.DataFrame | None, config: DataConfig
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Interactions of the schema, one a (user, item) pair, sorted by both; and how many rows each problem cost.

    Of several rows of a pair the train one wins, then the latest, then the best rated. The threshold comes after:
    a user's last word counts. Items outside `items`, if given, are unknown.
    """
    values = _values(raw)
    rows = raw.rows
    if items is not None:
        catalogue = items.lazy().select(pl.col(c.ITEM).alias(_CATALOGUE_ID))
        rows = rows.join(catalogue, left_on=values[c.ITEM], right_on=_CATALOGUE_ID, how="left", coalesce=False)
    flagged = rows.with_columns(problem=_problem(values, raw, items is not None))
    with reading(raw.path):
        counted, kept = pl.collect_all(
            [flagged.group_by("problem").len(), flagged.filter(pl.col("problem").is_null()).select(**values)],
            engine="streaming",
        )
    counts = dict.fromkeys(_PROBLEMS, 0) | dict(counted.drop_nulls("problem").iter_rows())
    _refuse_malformed(raw, flagged, counts, kept.height + sum(counts.values()), config.max_bad_share)
    unique = _one_of_each_pair(kept)
    liked = unique.filter((pl.col(c.RATING) >= _threshold(config)) | pl.col(c.RATING).is_null())
    counts |= {"duplicate": kept.height - unique.height, "below_min_rating": unique.height - liked.height}
    if liked.is_empty():
        raise _nothing_left(raw, counts)
    return liked, counts


def _values(raw: RawTable) -> dict[str, pl.Expr]:
    """Each column of the schema, converted; columns that the source lacks are null."""
    values = {name: pl.lit(None, dtype) for name, dtype in INTERACTIONS.items()}
    convert = {c.USER: as_id, c.ITEM: as_id, c.SPLIT: as_id, c.RATING: as_rating, c.TIMESTAMP: as_seconds}
    return values | {name: convert[name](raw, name) for name in values if name in raw.names}


def _problem(values: dict[str, pl.Expr], raw: RawTable, with_catalogue: bool) -> pl.Expr:
    """The name of a row's first problem, or null."""
    tests = {
        "empty_user": values[c.USER].fill_null("") == "",
        "empty_item": values[c.ITEM].fill_null("") == "",
        "not_a_number": values[c.RATING].is_null(),
        "not_finite": ~values[c.RATING].is_finite(),
        "not_a_time": values[c.TIMESTAMP].is_null(),
        "before_1970": values[c.TIMESTAMP] < 0,
        "unknown_split": ~values[c.SPLIT].is_in(PARTS).fill_null(False),
    }
    asked = {name: test for name, test in tests.items() if _PROBLEMS[name][0] in raw.names}
    if with_catalogue:
        asked["unknown_item"] = pl.col(_CATALOGUE_ID).is_null()
    return pl.coalesce(pl.when(test).then(pl.lit(name)) for name, test in asked.items())


def _threshold(config: DataConfig) -> pl.Expr:
    return pl.lit(float("-inf") if config.min_rating is None else config.min_rating, pl.Float32)


def _one_of_each_pair(rows: pl.DataFrame) -> pl.DataFrame:
    keys = {c.USER: False, c.ITEM: False, "later_part": False, c.TIMESTAMP: True, c.RATING: True, c.SPLIT: False}
    ordered = rows.with_columns(later_part=pl.col(c.SPLIT) != PARTS[0]).sort(
        list(keys), descending=list(keys.values()), nulls_last=True
    )
    first = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift()) for name in (c.USER, c.ITEM))
    return ordered.filter(first).select(list(INTERACTIONS))


def _refuse_malformed(raw: RawTable, flagged: pl.LazyFrame, counts: dict[str, int], total: int, allowed: float) -> None:
    """Raises UserError if the file has no rows, too many malformed ones, or any unknown split label."""
    if total == 0:
        raise UserError("the interactions file has no rows", where=str(raw.path), hint="give a file with rows")
    malformed = {name: count for name, count in counts.items() if name not in _NOT_MALFORMED}
    worst = "unknown_split" if counts["unknown_split"] else max(malformed, key=lambda name: malformed[name])
    if sum(malformed.values()) <= allowed * total and worst != "unknown_split":
        return
    column, hint = _PROBLEMS[worst]
    example = raw.collect(flagged.filter(pl.col("problem") == worst).select(column).head(1)).item()
    listed = ", ".join(f"{name} {count:,}" for name, count in malformed.items() if count)
    what = f"{sum(malformed.values()):,} of {total:,} rows are malformed ({listed}), such as {str(example)[:40]!r}"
    raise UserError(what, where=raw.place(column), hint=hint)


def _nothing_left(raw: RawTable, counts: dict[str, int]) -> UserError:
    column, hint = _PROBLEMS[max(counts, key=lambda name: counts[name])]
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    return UserError(f"no interaction is left after cleaning ({listed})", where=raw.place(column), hint=hint)


def clean_entities(raw: RawTable | None, key: str, schema: TableSchema) -> tuple[pl.DataFrame, dict[str, int]]:
    """An items or users table of the schema, one row an id; equal rows are merged, rows without an id left out.

    Raises:
        UserError: the file has no rows, or an id has two different rows.
    """
    if raw is None:
        return pl.DataFrame(schema=schema), {"rows_in": 0, "empty_id": 0, "duplicate": 0}
    rows = raw.collect(raw.rows.with_columns(as_id(raw, key)))
    if rows.is_empty():
        raise UserError(
            "the file has no rows", where=str(raw.path), hint="give rows, or leave the file out of the recipe"
        )
    named = rows.filter(pl.col(key).fill_null("") != "")
    distinct = named.unique(maintain_order=True)
    twice = distinct.filter(pl.col(key).is_duplicated())[key]
    if len(twice):
        what = f"{twice.n_unique():,} ids have rows that contradict each other, such as {twice.min()!r}"
        raise UserError(what, where=raw.place(key), hint="keep one row an id")
    counts = {
        "rows_in": rows.height,
        "empty_id": rows.height - named.height,
        "duplicate": named.height - distinct.height,
    }
    return distinct.select(list(schema)).sort(key), counts


def _with_missing(table: pl.DataFrame, interactions: pl.DataFrame, key: str, schema: TableSchema) -> pl.DataFrame:
    """`table` with a bare row for every id of the interactions that it lacks, sorted by id."""
    bare = {name: pl.lit([] if name == c.ATTRIBUTES else None, dtype) for name, dtype in schema.items() if name != key}
    missing = interactions.select(key).unique().join(table, on=key, how="anti").with_columns(**bare)
    return pl.concat([table, missing]).sort(key)


def _title() -> pl.Expr:
    """The title on one line; an item without one is called by its id."""
    tidy = pl.col(c.TITLE).str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(tidy.str.len_bytes() > 0).then(tidy).otherwise(pl.col(c.ITEM)).alias(c.TITLE)
