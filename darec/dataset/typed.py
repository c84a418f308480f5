"""Column values of any source type as the types of `schemas.tables`; what cannot be converted becomes null."""

import polars as pl

from darec.common.errors import UserError
from darec.dataset.raw import RawTable

_DATE_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%:z")


def as_id(raw: RawTable, column: str) -> pl.Expr:
    """External ids as trimmed text. Raises UserError for a column of another type than text or whole numbers."""
    kind = raw.rows.collect_schema()[column]
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise UserError(
            f"ids are {kind}, not text or whole numbers", where=raw.place(column), hint="store them as text"
        )
    return pl.col(column).cast(pl.String).str.strip_chars()


def as_rating(raw: RawTable, column: str) -> pl.Expr:
    """Ratings as float32, null where the text is no number."""
    kind, values = raw.rows.collect_schema()[column], pl.col(column)
    if kind == pl.String:
        values = values.str.strip_chars().cast(pl.Float64, strict=False)
    elif not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise UserError(f"ratings are {kind}, not numbers", where=raw.place(column), hint="store them as numbers")
    return values.cast(pl.Float32, strict=False)


def as_seconds(raw: RawTable, column: str) -> pl.Expr:
    """Timestamps as whole seconds since 1970, from numbers, dates, or text holding either; null where it is neither."""
    kind, values = raw.rows.collect_schema()[column], pl.col(column)
    if kind == pl.String:
        return _seconds_of_text(values.str.strip_chars())
    if isinstance(kind, pl.Datetime | pl.Date):
        return values.dt.epoch("s").cast(pl.Int64)
    if not (kind.is_numeric() or kind == pl.Null):
        raise UserError(f"timestamps are {kind}", where=raw.place(column), hint="store them as seconds since 1970")
    return values.cast(pl.Int64, strict=False)


def _seconds_of_text(text: pl.Expr) -> pl.Expr:
    number = pl.coalesce(
        text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    )
    moment = text.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    dates = [moment.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("s") for form in _DATE_FORMATS]
    day = moment.str.to_date("%Y-%m-%d", strict=False).dt.epoch("s")
    return pl.coalesce(number, *dates, day).cast(pl.Int64)
