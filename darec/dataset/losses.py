"""Rows that cannot be used. Each has one cause; causes are counted and shown with an example, under a common limit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from darec.common.errors import UserError
from darec.dataset import ids, times
from darec.dataset.errors import AnswerableError
from darec.dataset.ratings import as_rating
from darec.dataset.raw import MORE_FIELDS, RawTable
from schemas import columns as c
from schemas.data import DataConfig
from schemas.tables import PARTS

if TYPE_CHECKING:
    from darec.dataset.log import Log

LOST = {  # maps causes, most specific first, to the column and the hint
    "more_fields": (c.ITEM, "quote fields that hold the separator"),
    "empty_user": (c.USER, "fill the user ids, correct data.interaction_columns.user, or set null_values"),
    "empty_item": (c.ITEM, "fill the item ids, correct data.interaction_columns.item, or set null_values"),
    "mangled_user": (c.USER, "write the ids with all their digits, as text: a spreadsheet has rounded them"),
    "mangled_item": (c.ITEM, "write the ids with all their digits, as text: a spreadsheet has rounded them"),
    "not_a_number": (c.RATING, "ratings must be numbers: correct data.interaction_columns.rating, or set it to null"),
    "not_finite": (c.RATING, "fix the NaN and infinite ratings, or set data.interaction_columns.rating to null"),
    "not_a_time": (
        c.TIMESTAMP,
        "write seconds since 1970 or ISO 8601 with all digits, set data.timestamp_format, or correct "
        "data.interaction_columns.timestamp",
    ),
    "implausible_time": (
        c.TIMESTAMP,
        "times must lie between 1990 and tomorrow: set data.timestamp_unit (`order` if the numbers only give an "
        "order), or correct data.interaction_columns.timestamp",
    ),
    "unknown_split": (c.SPLIT, "use the labels train, val and test, or correct data.interaction_columns.split"),
    "unknown_item": (c.ITEM, "use the same ids in both files: correct data.items or data.item_columns.item"),
}
NO_LOSS = ("blank", "other_event", "below_min_rating", "disliked", "duplicate")  # left out as configured
_MOST = 0.5  # share of lost rows from which the column is considered the wrong one
_KINDS = {"empty": ids.EMPTY, "mangled": ids.MANGLED, "unknown": ids.UNKNOWN}


def problem_of_a_row(raw: RawTable) -> pl.Expr:
    """The number of the first cause of a row's loss (its position in `LOST`, from 1), or 0."""
    tests = {
        "more_fields": pl.col("more"),
        "empty_user": pl.col("user_problem") == ids.EMPTY,
        "empty_item": pl.col("item_problem") == ids.EMPTY,
        "mangled_user": pl.col("user_problem") == ids.MANGLED,
        "mangled_item": pl.col("item_problem") == ids.MANGLED,
        "not_a_number": pl.col("rating").is_null(),
        "not_finite": ~pl.col("rating").is_finite(),
        "not_a_time": pl.col("time").is_null(),
        "implausible_time": pl.col("time") == times.IMPLAUSIBLE,
        "unknown_split": pl.col("split").is_null() | ~pl.col("split").is_in(PARTS),
        "unknown_item": pl.col("item_problem") == ids.UNKNOWN,
    }
    not_read = {c.RATING, c.TIMESTAMP, c.SPLIT} - raw.names.keys()
    found = pl.lit(0, pl.UInt8)
    for number, cause in reversed(list(enumerate(LOST, start=1))):
        if LOST[cause][0] not in not_read:
            found = pl.when(tests[cause]).then(pl.lit(number, pl.UInt8)).otherwise(found)

    return found


def count_losses(raw: RawTable, log: "Log", config: DataConfig) -> dict[str, dict[str, Any]]:
    """For each cause of lost rows: their number (`rows`) and an example.

    Raises:
        UserError: more than `max_bad_share` of all rows are lost, or a label of the split is unknown.
    """
    causes = list(LOST)
    counts = {causes[number - 1]: count for number, count in log.rows["problem"].value_counts().rows() if number}
    lost = {cause: {"rows": counts[cause], "example": _example(raw, log, cause)} for cause in causes if cause in counts}
    total = sum(counts.values())
    if total <= config.max_bad_share * log.rows.height and "unknown_split" not in lost:
        return lost

    worst = "unknown_split" if "unknown_split" in lost else max(counts, key=lambda cause: counts[cause])
    column, hint = LOST[worst]
    listed = ", ".join(f"{cause} {found['rows']:,}" for cause, found in lost.items())
    what = f"{total:,} of {log.rows.height:,} rows would be lost ({listed}), such as {lost[worst]['example']}"
    share = total / log.rows.height

    # The setting that `darec data inspect` tries next.
    settings: dict[str, Any] = {"max_bad_share": round(min(share + 0.01, 1), 2)}
    if worst == "unknown_item":
        kind = ids.difference(*log.items.nearest) if log.items.nearest else None
        settings = {"merge_ids": (kind,)} if kind else {"unknown_items": "keep"}
        hint += f", set data.merge_ids: [{kind}]" if kind else ", or set data.unknown_items: keep"
    elif column == c.TIMESTAMP and share > _MOST:
        settings = {"interaction_columns": {"timestamp": None}}

    raise AnswerableError(
        what,
        where=raw.place(column),
        hint=f"{hint}; data.max_bad_share is the limit",
        settings={"data": settings} if share <= _MOST or "max_bad_share" not in settings else {},
    )


def check_variants(raw: RawTable, log: "Log", config: DataConfig) -> list[str]:
    """Reports ids that differ only in case, leading zeros or blanks.

    Raises:
        UserError: they concern more than `max_bad_share` of all rows, and the recipe does not set `merge_ids`.
    """
    told = []
    for column, judged in ((c.USER, log.users), (c.ITEM, log.items)):
        if judged.twins is None or config.merge_ids is not None:
            continue
        rows, example, kind = judged.twins
        what = f"{rows:,} of {log.rows.height:,} rows have an id with a variant, such as {example}"
        hint = f"set data.merge_ids: [{kind}] to merge them, or [] to keep them separate"
        if rows > config.max_bad_share * log.rows.height:
            settings = {"data": {"merge_ids": (kind,)}}
            raise AnswerableError(what, where=raw.place(column), hint=hint, settings=settings)
        told.append(f"{raw.names[column]}: {what}; {hint}")

    return told


def nothing_left(raw: RawTable, counts: Mapping[str, int]) -> UserError:
    """The error that no row is left, with a hint for the most frequent cause."""
    present = {cause: count for cause, count in counts.items() if count}
    places = {
        "below_min_rating": (c.RATING, "lower data.min_rating, or set it to null"),
        "other_event": (c.EVENT, "correct data.events"),
    }
    worst = max(present, key=lambda cause: present[cause])
    column, hint = (LOST | places).get(worst, (c.ITEM, "give more rows"))
    listed = ", ".join(f"{cause} {count:,}" for cause, count in present.items())

    return UserError(f"no interaction is left after cleaning ({listed})", where=raw.place(column), hint=hint)


def _example(raw: RawTable, log: "Log", cause: str) -> str:
    """A value of a lost row, in words."""
    column, _ = LOST[cause]
    if column in (c.USER, c.ITEM) and cause != "more_fields":
        judged = log.users if column == c.USER else log.items
        return judged.examples.get(_KINDS[cause.partition("_")[0]], "an empty field")

    column = MORE_FIELDS if cause == "more_fields" else column
    values = raw.rows.select(column).filter(_is_at_fault(raw, log, cause))
    for rows in (values.filter(pl.col(column).is_not_null()), values):
        found = raw.collect(rows.head(1)).to_series().to_list()
        if found and found[0] not in (None, ""):
            return repr(str(found[0])[:40])

    return "an empty field"


def _is_at_fault(raw: RawTable, log: "Log", cause: str) -> pl.Expr:
    """The original values that caused losses."""
    if cause == "more_fields":
        return pl.col(MORE_FIELDS).fill_null("") != ""
    if cause in ("not_a_number", "not_finite"):
        rating = as_rating(raw, c.RATING)
        return rating.is_null() if cause == "not_a_number" else ~rating.is_finite()

    if cause in ("not_a_time", "implausible_time"):
        time = times.nanoseconds(c.TIMESTAMP, raw.rows.collect_schema()[c.TIMESTAMP], log.forms)
        return time.is_null() if cause == "not_a_time" else time == times.IMPLAUSIBLE

    known = [label for label in log.labels if log.labels[label] in PARTS]
    return ~pl.col(c.SPLIT).cast(pl.String).is_in(known).fill_null(False)
