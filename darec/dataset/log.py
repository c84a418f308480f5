"""Reads the interactions in one pass: ids become consecutive numbers, and every row is checked."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.dataset import ids, times
from darec.dataset.ids import Ids, as_id
from darec.dataset.losses import NO_LOSS, problem_of_a_row
from darec.dataset.numbering import Numbering
from darec.dataset.ratings import as_rating
from darec.dataset.raw import MORE_FIELDS, RawTable
from schemas import columns as c
from schemas.data import DataConfig
from schemas.tables import PARTS

_LABELS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "eval": "val", "test": "test", "testing": "test",
}  # fmt: skip
_SAMPLE = 5_000  # number of timestamps that are sampled to recognise their format


@dataclass
class Log:
    """All rows of the interactions.

    Attributes:
        rows: `user` and `item` (rows of `users.ids` and `items.ids`, -1 for none), `split`, `rating`, `time`
            (nanoseconds), `event`, and `problem`, the number of the cause of its loss (`losses.LOST`), 0 for none.
    """

    rows: pl.DataFrame
    users: Ids
    items: Ids
    forms: times.TimeForms
    left_out: dict[str, int]
    """Rows that are left out before the checks: blank lines, and events that are not read."""
    labels: dict[str, str] = field(default_factory=dict)
    """The part of the split for each label, "?" if unknown."""
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def read_log(raw: RawTable, catalogue: pl.Series | None, config: DataConfig) -> Log:
    """Reads the interactions and checks every row.

    Args:
        raw: the source.
        catalogue: the ids of the items file, if there is one; other ids are unknown.
        config: settings for ids, times and events.

    Raises:
        UserError: a column has a wrong type, or the file has no rows or none with an event that is read.
    """
    forms, notes = _forms(raw, config)
    rows, texts = _read(raw, forms)
    if rows["unread_time"].any() and (better := _other_forms(raw, forms, config)) != forms:
        forms, (rows, texts) = better, _read(raw, better)

    is_blank = rows.select(pl.all_horizontal(pl.col(c.USER, c.ITEM, c.RATING, c.TIMESTAMP).is_null())).to_series()
    left_out = dict.fromkeys(NO_LOSS, 0) | {"blank": int(is_blank.sum())}
    rows = rows.filter(~is_blank) if left_out["blank"] else rows
    if rows.is_empty():
        raise UserError("the interactions file has no rows", where=str(raw.path), hint="give a file with rows")

    if config.unknown_items == "keep":
        catalogue = None
    users = _checked_ids(raw, texts[c.USER].distinct(rows[c.USER]), c.USER, config, None)
    items = _checked_ids(raw, texts[c.ITEM].distinct(rows[c.ITEM]), c.ITEM, config, catalogue)
    for word, judged in (("users", users), ("items", items)):
        notes += [f"{word}: {note}" for note in judged.notes]

    rows, left_out["other_event"], events = _of_events(raw, rows, config)
    labels = _meanings(rows[c.SPLIT])
    numbered = rows.select(
        user=_taken(users.codes, rows[c.USER]),
        item=_taken(items.codes, rows[c.ITEM]),
        user_problem=_taken(users.problems, rows[c.USER]),
        item_problem=_taken(items.problems, rows[c.ITEM]),
        split=_parts(rows[c.SPLIT], labels),
        rating=c.RATING,
        time=c.TIMESTAMP,
        event=c.EVENT,
        more=MORE_FIELDS,
    )
    judged_rows = numbered.with_columns(problem=problem_of_a_row(raw)).drop("user_problem", "item_problem", "more")
    doubts = [forms.doubt] if forms.doubt else []

    return Log(judged_rows, users, items, forms, left_out, labels, notes + events, doubts)


def _forms(raw: RawTable, config: DataConfig) -> tuple[times.TimeForms, list[str]]:
    """The format of timestamps, recognised from the first ones, and a remark about it."""
    if c.TIMESTAMP not in raw.names:
        return times.TimeForms(config.timestamp_unit), []

    kind = raw.rows.collect_schema()[c.TIMESTAMP]
    if not (kind.is_numeric() or kind in (pl.String, pl.Null) or isinstance(kind, pl.Datetime | pl.Date)):
        raise UserError(f"timestamps are {kind}", where=raw.place(c.TIMESTAMP), hint="store them as seconds since 1970")
    if isinstance(kind, pl.Datetime | pl.Date):
        return times.TimeForms(config.timestamp_unit), []

    sample = raw.collect(raw.rows.select(c.TIMESTAMP).head(_SAMPLE)).to_series()
    forms = times.recognise(sample, config.timestamp_unit, config.timestamp_format)
    units = forms.unit or " and ".join([*times.shown_units(times.units_of(sample)), *forms.forms])
    return forms, [f"timestamps are read as {units}"] if units else []


def _read(raw: RawTable, forms: times.TimeForms) -> tuple[pl.DataFrame, dict[str, Numbering]]:
    """One pass over the source. Ids become numbers and labels categories, so that a row takes a few dozen bytes."""
    schema = raw.rows.collect_schema()
    texts = {name: Numbering() for name in (c.USER, c.ITEM)}
    columns = {name: numbering.of(as_id(raw, name)) for name, numbering in texts.items()}
    for name in (c.SPLIT, c.EVENT):
        values = pl.col(name).cast(pl.String) if name in raw.names else pl.lit(None, pl.String)
        columns[name] = values.cast(pl.Categorical(pl.Categories.random()))

    columns[c.RATING] = as_rating(raw, c.RATING) if c.RATING in raw.names else pl.lit(None, pl.Float32)
    time, unread = pl.lit(None, pl.Int64), pl.lit(False)
    if c.TIMESTAMP in raw.names:
        time = times.nanoseconds(c.TIMESTAMP, schema[c.TIMESTAMP], forms)
        if schema[c.TIMESTAMP] == pl.String:
            unread = pl.col(c.TIMESTAMP).is_not_null()

    columns |= {c.TIMESTAMP: time, "unread_time": unread}
    columns[MORE_FIELDS] = pl.col(MORE_FIELDS).fill_null("") != "" if MORE_FIELDS in schema else pl.lit(False)
    rows = raw.rows.select(**columns)
    return raw.collect(rows.with_columns(pl.col("unread_time") & pl.col(c.TIMESTAMP).is_null())), texts


def _other_forms(raw: RawTable, forms: times.TimeForms, config: DataConfig) -> times.TimeForms:
    """The formats of timestamps, extended for later values that no known format parses."""
    unread = times.nanoseconds(c.TIMESTAMP, pl.String(), forms).is_null() & (
        pl.col(c.TIMESTAMP).str.strip_chars() != ""
    )
    sample = raw.collect(raw.rows.filter(unread).select(c.TIMESTAMP).head(_SAMPLE)).to_series()
    return times.extended(forms, times.recognise(sample, config.timestamp_unit, config.timestamp_format))


def _checked_ids(
    raw: RawTable, values: pl.DataFrame, column: str, config: DataConfig, catalogue: pl.Series | None
) -> Ids:
    """The distinct values of a column, checked as ids."""
    kind = raw.rows.collect_schema()[column]
    if kind.is_float() and values["value"].str.contains(r"\.\d*[1-9]").any():
        what = f"ids are {kind}, not text or whole numbers"
        raise UserError(what, where=raw.place(column), hint="store them as text")
    return ids.resolve(values, raw.form.null_values, config.merge_ids or (), catalogue)


def _taken(by_code: NDArray[Any], codes: pl.Series) -> pl.Series:
    """The entry of each code; the last entry is for null."""
    return pl.Series(by_code[codes.fill_null(len(by_code) - 1).to_numpy()])


def _meanings(labels: pl.Series) -> dict[str, str]:
    present = labels.unique().drop_nulls().cast(pl.String)
    return {label: _LABELS.get(label.strip().lower(), "?") for label in present}


def _parts(labels: pl.Series, meanings: dict[str, str]) -> pl.Series:
    """The part of the split for each label, as an enumeration."""
    kind = pl.Enum([*PARTS, "?"])
    if not meanings:
        return pl.Series([None], dtype=kind).new_from_index(0, len(labels))
    return labels.cast(pl.String).replace_strict(meanings, default=None, return_dtype=kind)


def _of_events(raw: RawTable, rows: pl.DataFrame, config: DataConfig) -> tuple[pl.DataFrame, int, list[str]]:
    """The rows with an event type that is read, the number of other rows, and a remark about all types."""
    if c.EVENT not in raw.names:
        return rows, 0, []

    counts = [(event, count) for event, count in rows[c.EVENT].value_counts(sort=True).rows() if event is not None]
    notes = ["events: " + ", ".join(f"{event} {count:,}" for event, count in counts[:20])]
    if config.events is None:
        return rows, 0, notes

    known = [event for event, _ in counts]
    if unknown := sorted(set(config.events) - set(known)):
        what = f"there is no event {unknown[0]!r}; the events are {', '.join(map(repr, known[:20]))}"
        raise UserError(what, where=raw.place(c.EVENT), hint="correct data.events")

    kept = rows.filter(pl.col(c.EVENT).cast(pl.String).is_in(list(config.events)))
    return kept, rows.height - kept.height, notes
