"""Cleans raw tables: checks ids, times and ratings, counts every lost row, and keeps one row per pair."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from darec.common.errors import UserError
from darec.common.ranges import renumbered
from darec.dataset import times
from darec.dataset.errors import AnswerableError
from darec.dataset.ids import as_id, tidied
from darec.dataset.log import Log, read_log
from darec.dataset.losses import check_variants, count_losses, nothing_left
from darec.dataset.preferences import one_of_each_pair, threshold_of, unread_columns, verdicts, weighted
from darec.dataset.raw import RawTable
from darec.dataset.readers import RawData
from darec.dataset.sources import resolve
from schemas import columns as c
from schemas.data import DataConfig
from schemas.tables import DISLIKES, INTERACTION_EXTRAS, INTERACTIONS, ITEMS, USERS, TableSchema


@dataclass(frozen=True)
class CleanData:
    """The tables of `schemas.tables`, each sorted by id, and the counts of cleaning."""

    query: pl.LazyFrame
    """The interactions: columns of `INTERACTIONS`, and the columns of `INTERACTION_EXTRAS` that the recipe uses.

    Numbers become ids when it is written, so that the texts of all rows are never in memory together.
    """
    items: pl.DataFrame
    users: pl.DataFrame
    report: dict[str, Any]
    """`lost`: the number and an example of the rows that each cause has lost; `notes`: what was recognised; `doubts`:
    what may be wrong; and counts.
    """
    dislikes: pl.DataFrame | None = None
    """The pairs that are dislikes; None if the recipe names none."""

    @property
    def interactions(self) -> pl.DataFrame:
        """The result of `query`, if it fits in memory."""
        return self.query.collect(engine="streaming")


def clean(raw: RawData, config: DataConfig) -> CleanData:
    """Cleans all three tables. All users and items of the interactions are in the users and items tables.

    Raises:
        UserError: an error that cleaning cannot fix (two different rows of one item, unknown split labels, a column of
        a wrong type, a threshold that does not fit the ratings), more than `max_bad_share` of the interactions would be
        lost, or none is left.
    """
    config = resolve(config)
    items, items_report = clean_entities(raw.items, c.ITEM, ITEMS)
    users, users_report = clean_entities(raw.users, c.USER, USERS)
    interactions, dislikes, told = clean_interactions(raw.interactions, items[c.ITEM] if raw.items else None, config)

    n_users, n_items = len(told[c.USER]), len(told[c.ITEM])
    doubts = [doubt for table in (raw.interactions, raw.items, raw.users) if table for doubt in table.doubts]
    items_report["without_interactions"] = _unmentioned(items[c.ITEM], told[c.ITEM])
    users_report["without_interactions"] = _unmentioned(users[c.USER], told[c.USER])
    report = {
        "rows_in": told["rows_in"],
        "rows_out": told["rows_out"],
        "left_out": told["left_out"],
        "users": n_users,
        "items": n_items,
        "density": told["rows_out"] / (n_users * n_items),
        "items_file": items_report,
        "users_file": users_report,
        "lost": told["lost"],
        "notes": told["notes"],
        "doubts": [*told["doubts"], *doubts],
    }

    items = _with_missing(items, told[c.ITEM], ITEMS).with_columns(_title())
    users = _with_missing(users, told[c.USER], USERS)
    return CleanData(interactions, items, users, report, dislikes)


def clean_interactions(
    raw: RawTable, catalogue: pl.Series | None, config: DataConfig
) -> tuple[pl.LazyFrame, pl.DataFrame | None, dict[str, Any]]:
    """Interactions of the schema, one per (user, item) pair, sorted by both; the dislikes; and remarks.

    Of several rows of a pair, the train row is kept, then the latest, then the best rated. The threshold is applied
    afterwards, so the user's latest rating counts. Items outside `catalogue`, if given, are unknown. The remarks
    include the ids of all remaining users and items.
    """
    log = read_log(raw, catalogue, config)
    lost = count_losses(raw, log, config)
    doubts = [*log.doubts, *check_variants(raw, log, config), *unread_columns(raw, config)]
    rows_in = log.rows.height + log.left_out["other_event"]
    kept = log.rows.filter(pl.col("problem") == 0).drop("problem")
    log.rows = log.rows.clear()  # gigabytes for fifty million rows, and no longer needed
    threshold, doubtful = threshold_of(raw, kept["rating"], config)

    n_kept = kept.height
    pairs = one_of_each_pair(weighted(kept, config), len(log.items.ids), config)
    del kept

    is_liked, is_disliked = verdicts(threshold, config)
    liked = pairs.filter(is_liked)
    disliked = None if is_disliked is None else pairs.filter(is_disliked)
    n_pairs = pairs.height
    del pairs

    left_out = log.left_out | {cause: found["rows"] for cause, found in lost.items()}
    left_out["duplicate"] = n_kept - n_pairs
    left_out["disliked"] = 0 if disliked is None else disliked.height
    left_out["below_min_rating"] = n_pairs - liked.height - left_out["disliked"]
    if liked.is_empty():
        raise nothing_left(raw, left_out)

    has_dates = c.TIMESTAMP in raw.names and config.timestamp_unit != "order"
    notes = [*log.notes, f"from {times.span(liked['time'])}"] if has_dates else log.notes
    told = {
        "rows_in": rows_in,
        "rows_out": liked.height,
        "left_out": left_out,
        "lost": lost,
        "notes": notes,
        "doubts": [*doubts, *doubtful],
        c.USER: log.users.ids.gather(renumbered(liked["user"])[1]).alias(c.USER),
        c.ITEM: log.items.ids.gather(renumbered(liked["item"])[1]).alias(c.ITEM),
    }
    dislikes = None if disliked is None else _with_ids(disliked, log).select(list(DISLIKES)).collect()
    return _as_interactions(liked, log), dislikes, told


def clean_entities(raw: RawTable | None, key: str, schema: TableSchema) -> tuple[pl.DataFrame, dict[str, int]]:
    """An items or users table of the schema, one row per id; equal rows are merged, rows without an id left out.

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

    named = rows.with_columns(tidied(rows[key], raw.form.null_values).alias(key)).filter(pl.col(key).is_not_null())
    distinct = named.unique(maintain_order=True)
    twice = distinct.filter(pl.col(key).is_duplicated())[key]
    if twice.n_unique() > 0.5 * distinct[key].n_unique():
        role = "items" if key == c.ITEM else "users"
        what = f"most ids have several rows that differ, such as {twice.min()!r}: the file lists properties, not {role}"
        hint = f"write one row per id, with a column for each property, or leave the file out (data.{role}: null)"
        raise AnswerableError(what, where=raw.place(key), hint=hint, settings={"data": {role: None}})
    if len(twice):
        what = f"{twice.n_unique():,} ids have rows that contradict each other, such as {twice.min()!r}"
        raise UserError(what, where=raw.place(key), hint="keep one row per id")

    counts = {
        "rows_in": rows.height,
        "empty_id": rows.height - named.height,
        "duplicate": named.height - distinct.height,
    }
    return distinct.select(list(schema)).sort(key), counts


def _unmentioned(ids: pl.Series, mentioned: pl.Series) -> int:
    """The number of ids of a file that no remaining interaction mentions."""
    return int((~ids.is_in(mentioned.implode())).sum())


def _with_ids(pairs: pl.DataFrame, log: Log) -> pl.LazyFrame:
    """Pairs with their ids, and times as seconds and remaining nanoseconds."""
    return pairs.lazy().select(
        _text("user", log.users.ids).alias(c.USER),
        _text("item", log.items.ids).alias(c.ITEM),
        pl.col("rating").alias(c.RATING),
        (pl.col("time") // times.SECOND).alias(c.TIMESTAMP),
        pl.col("split").cast(pl.String).alias(c.SPLIT),
        (pl.col("time") % times.SECOND).cast(pl.Int32).alias(c.NANOSECOND),
        *([pl.col("weight").alias(c.WEIGHT)] if "weight" in pairs.columns else []),
    )


def _text(column: str, ids: pl.Series) -> pl.Expr:
    """The ids of the numbers in a column, in the chunks in which a query passes them."""
    return pl.col(column).map_batches(ids.gather, return_dtype=pl.String, is_elementwise=True)


def _as_interactions(pairs: pl.DataFrame, log: Log) -> pl.LazyFrame:
    """The table of the schema, with the extra columns that have values."""
    table = _with_ids(pairs, log)
    extras = [name for name in INTERACTION_EXTRAS if name in table.collect_schema()]
    if not pairs.select((pl.col("time") % times.SECOND != 0).any()).item():
        extras.remove(c.NANOSECOND)
    return table.select([*INTERACTIONS, *extras])


def _with_missing(table: pl.DataFrame, present: pl.Series, schema: TableSchema) -> pl.DataFrame:
    """`table` with an additional row of nulls for every missing id of `present`, sorted by id."""
    key = present.name
    bare = {name: pl.lit([] if name == c.ATTRIBUTES else None, dtype) for name, dtype in schema.items() if name != key}
    missing = present.to_frame().join(table, on=key, how="anti").with_columns(**bare)
    return pl.concat([table, missing]).sort(key)


def _title() -> pl.Expr:
    """The title on one line; without a title, the id."""
    tidy = pl.col(c.TITLE).str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(tidy.str.len_bytes() > 0).then(tidy).otherwise(pl.col(c.ITEM)).alias(c.TITLE)
