"""Recognises timestamps by their values: the unit of numbers, the format of text, and implausible times."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from schemas.data import TimeUnit

SECOND = 1_000_000_000  # nanoseconds, the unit of times until the tables are written
IMPLAUSIBLE = -(2**63)
"""Marks a number or date outside 1990 to tomorrow."""

_FIRST = 631_152_000  # 1990-01-01: earlier times are implausible
_DAY = 86_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

# The usual formats of dates in text normalised by `_tidy`. Of formats that fit equally well the first is chosen.
_DAYS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y",
    "%d/%m/%y", "%d.%m.%y", "%m %d %Y", "%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y", "%d-%b-%Y", "%d-%b-%y",
    "%Y%m%d",
)  # fmt: skip
_HOURS = (
    "%H:%M:%S%.f", "%H:%M:%S%.f%#z", "%H:%M:%S%.f %#z", "%H:%M", "%H:%M%#z", "%H:%M:%S%.f UTC", "%H:%M:%S%.f GMT",
    "%I:%M:%S %p", "%I:%M %p", "%I:%M:%S%p", "%I:%M%p", "%H%M%S", "%H%M%S%#z", "",
)  # fmt: skip
_OTHERS = (
    "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S %Y", "%a %d %b %Y %H:%M:%S GMT",
    "%a %d %b %Y %H:%M:%S %z", "%a %d %b %Y", "%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y:%H:%M:%S", "%Y-%m",
)  # fmt: skip
_FORMS = (*(f"{day} {hour}".strip() for hour in _HOURS for day in _DAYS), *_OTHERS)
_MOST_FORMS = 4  # formats in one column
_SAMPLE = 2_000  # distinct values

_TICKS_IN_1970 = 621_355_968_000_000_000  # of .NET: tenths of a microsecond since the year 1
_EXCEL_IN_1970 = 25_569  # days, as spreadsheets count them

_THOUSANDS = r"^\d{1,3}(,\d{3}){3,}$"
_SCIENTIFIC = r"^[-+]?\d(\.\d+)?[eE]\+?\d+$"


@dataclass(frozen=True)
class TimeForms:
    """How the timestamps of one column are read."""

    unit: TimeUnit | None = None
    """The unit of numbers; None means that it follows from the magnitude of each number."""
    forms: tuple[str, ...] = ()
    """The formats of text, tried one after another."""
    mangled: bool = False
    """Whether numbers in scientific notation have lost digits (`1.50052E+09`), so that they are not times."""
    doubt: str | None = None


def recognise(sample: pl.Series, unit: TimeUnit | None, form: str | None) -> TimeForms:
    """The format of the values of a sample, given the recipe's settings."""
    if form is not None:
        return TimeForms(unit, (form,))
    text = sample.cast(pl.String).str.strip_chars().drop_nulls().unique(maintain_order=True).head(_SAMPLE).alias("text")
    is_number = text.cast(pl.Float64, strict=False).is_not_null()
    dates = text.filter(~is_number & (text != ""))
    forms, doubt = _forms_of(dates.to_frame().select(_tidy(pl.col("text"))).to_series())
    return TimeForms(unit, forms, _have_lost_digits(text.filter(text.str.contains(_SCIENTIFIC))), doubt)


def nanoseconds(column: str, kind: pl.DataType, read: TimeForms) -> pl.Expr:
    """A column as nanoseconds since 1970, null for values that are not times, `IMPLAUSIBLE` outside 1990 to tomorrow.

    With the unit `order`, all numbers are read as seconds.
    """
    values = pl.col(column)
    if isinstance(kind, pl.Datetime | pl.Date):
        return _plausible(_of_datetime(values))
    if kind.is_integer():
        return _of_number(values.cast(pl.Int64, strict=False), read.unit)
    read_part = _of_floats if kind.is_numeric() else _of_texts
    return values.map_batches(lambda part: read_part(part, read), pl.Int64, is_elementwise=True)


# The next two are computed in steps: as one expression, each value that is used twice is written out twice, and the
# tree becomes so large that Polars takes a fifth of a second to plan it.


def _of_floats(values: pl.Series, read: TimeForms) -> pl.Series:
    """`nanoseconds` of numbers, to the microsecond, the precision of a double for current times."""
    number = values.cast(pl.Float64).fill_nan(None).alias("number").to_frame()
    times = number.select(time=_of_number(pl.col("number"), read.unit))
    rounded = (pl.col("time") + 500).floordiv(1_000) * 1_000
    return times.select(pl.when(pl.col("time") != IMPLAUSIBLE).then(rounded).otherwise("time")).to_series()


def _of_texts(values: pl.Series, read: TimeForms) -> pl.Series:
    """`nanoseconds` of texts: whole numbers, other numbers, and dates."""
    table = values.cast(pl.String).str.strip_chars().alias("text").to_frame()
    whole = pl.col("text").str.replace_all(",", "", literal=True)
    table = table.with_columns(pl.when(pl.col("text").str.contains(_THOUSANDS)).then(whole).otherwise("text"))
    table = table.with_columns(
        whole=pl.col("text").cast(pl.Int64, strict=False), number=pl.col("text").cast(pl.Float64, strict=False)
    )
    if read.mangled:
        table = table.with_columns(pl.when(~pl.col("text").str.contains(_SCIENTIFIC)).then("number"))

    floats = _of_floats(table["number"], read)
    tidy = table.select(_tidy(pl.col("text")))
    dates = [tidy.select(_plausible(_of_datetime(_parsed(pl.col("text"), form)))).to_series() for form in read.forms]
    return table.select(pl.coalesce(_of_number(pl.col("whole"), read.unit), floats, *dates)).to_series()


def unit_of(numbers: pl.Series) -> TimeUnit | None:
    """The unit of numbers that are no times by their size: days, days of a spreadsheet, or only an order."""
    for unit in ("days", "excel"):
        found = numbers.to_frame("number").select(_of_number(pl.col("number"), unit)).to_series()
        if len(found) and (found != IMPLAUSIBLE).fill_null(False).all():
            return unit
    return "order" if numbers.n_unique() > 2 else None


def span(times: pl.Series) -> str:
    """The first and the last day of a column of nanoseconds."""
    known = times.drop_nulls()
    if known.is_empty():
        return "no times"
    ends = pl.Series([known.min(), known.max()], dtype=pl.Int64).cast(pl.Datetime("ns")).dt.strftime("%Y-%m-%d")
    return f"{ends[0]} to {ends[1]}"


def units_of(numbers: pl.Series) -> dict[str, int]:
    """The number of values per unit, by their magnitude."""
    values = numbers.cast(pl.Float64, strict=False).drop_nulls()
    counts = {unit: int(((values >= low) & (values < high)).sum()) for unit, low, high in _spans()}
    return {unit: count for unit, count in counts.items() if count}


def _spans() -> list[tuple[str, float, float]]:
    """For every unit that is recognised by magnitude: the range from 1990 to tomorrow. The ranges do not overlap."""
    last = time.time() + _DAY
    today = float(time.strftime("%Y%m%d", time.gmtime(last)))
    first_tick, last_tick = (_TICKS_IN_1970 + seconds * 10**7 for seconds in (_FIRST, last))
    # Nanoseconds begin after the ticks, without the first weeks of 1990.
    spans: list[tuple[str, float, float]] = [
        (unit, last_tick if unit == "ns" else _FIRST * per, last * per) for unit, per in _PER_SECOND.items()
    ]
    digits = {"yyyymm": 1e-2, "yyyymmdd": 1, "yyyymmddhhmm": 1e4, "yyyymmddhhmmss": 1e6}
    spans += [(name, 19_900_101 * per // 1, (today + 1) * per) for name, per in digits.items()]
    return [*spans, ("ticks", first_tick, last_tick)]


def _of_number(values: pl.Expr, unit: TimeUnit | None) -> pl.Expr:
    if unit == "order":
        return (values * SECOND).cast(pl.Int64, strict=False)
    if unit in ("days", "excel"):
        days = values - (_EXCEL_IN_1970 if unit == "excel" else 0)
        return _plausible((days * (_DAY * SECOND)).cast(pl.Int64, strict=False))
    known = pl.when(values.is_null()).then(pl.lit(None, pl.Int64))
    for name, low, high in _spans():
        if unit in (None, name):
            # Polars evaluates all branches for all rows. Nulls are not parsed as dates.
            inside = (values >= low) & (values < high)
            known = known.when(inside).then(_of_unit(pl.when(inside).then(values), name))
    return known.otherwise(IMPLAUSIBLE)


def _of_unit(values: pl.Expr, unit: str) -> pl.Expr:
    if unit in _PER_SECOND:
        return (values * (SECOND // _PER_SECOND[unit])).cast(pl.Int64, strict=False)
    if unit == "ticks":
        return (values - _TICKS_IN_1970).cast(pl.Int64, strict=False) * 100
    digits = values.cast(pl.Int64, strict=False).cast(pl.String)
    if unit in ("yyyymm", "yyyymmdd"):
        return _of_datetime(digits.str.to_date("%Y%m%d"[: len(unit) - 2], strict=False))
    form = "%Y%m%d%H%M%S"[: len(unit) - 2]
    return _of_datetime(digits.str.to_datetime(form, strict=False, time_unit="us"))


def _of_datetime(values: pl.Expr) -> pl.Expr:
    """Nanoseconds, or null; years outside the range of nanoseconds become `IMPLAUSIBLE`."""
    year = values.dt.year()
    return pl.when(year.is_between(1700, 2200)).then(values.dt.epoch("ns")).when(year.is_not_null()).then(IMPLAUSIBLE)


def _plausible(times: pl.Expr) -> pl.Expr:
    last = int((time.time() + _DAY) * SECOND)
    return pl.when(times.is_between(_FIRST * SECOND, last)).then(times).when(times.is_not_null()).then(IMPLAUSIBLE)


def _tidy(text: pl.Expr) -> pl.Expr:
    """Normalises text: a blank for the `T` of ISO 8601, a point before fractions of a second, no other commas, and
    minutes after an hour that has none.
    """
    spaced = text.str.replace(r"^(\d{4}-?\d\d-?\d\d)T", "$1 ").str.replace(r"(:\d\d),(\d+)", "$1.$2")
    spaced = spaced.str.replace(r"^\[(.*)\]$", "$1").str.replace(" at ", " ", literal=True)
    return spaced.str.replace_all(r",? +", " ").str.replace(r"^(\d{4}-\d\d-\d\d \d\d)$", "$1:00")


def _parsed(text: pl.Expr, form: str) -> pl.Expr:
    if "%H" in form or "%I" in form or "%T" in form or "%R" in form:
        return text.str.to_datetime(form, strict=False, time_unit="us" if "%y" in form else "ns")
    return text.str.to_date(form, strict=False)


def _forms_of(dates: pl.Series) -> tuple[tuple[str, ...], str | None]:
    """The formats that parse most texts, best first, and doubts about them."""
    forms, doubt = [], None
    while not dates.is_empty() and len(forms) < _MOST_FORMS:
        found = {form: _is_read(dates, form) for form in _FORMS}
        best = max(found, key=lambda form: found[form].sum())
        if not found[best].any():
            break
        swapped = _swapped(best)
        if swapped != best and found.get(swapped, found[best] & False).sum() == found[best].sum() and len(dates) > 1:
            doubt = f"{dates[0]!r} is read by {best}, and could be {swapped}: set data.timestamp_format"
        forms.append(best)
        dates = dates.filter(~found[best])
    return tuple(forms), doubt


def _is_read(dates: pl.Series, form: str) -> pl.Series:
    times = dates.alias("text").to_frame().select(_plausible(_of_datetime(_parsed(pl.col("text"), form)))).to_series()
    return (times != IMPLAUSIBLE).fill_null(False)


def _have_lost_digits(numbers: pl.Series) -> bool:
    """Whether all numbers in scientific notation have fewer digits than their exponent requires."""
    if numbers.is_empty():
        return False
    digits = numbers.str.extract(r"^[-+]?([\d.]+)").str.replace(".", "", literal=True).str.len_bytes().cast(pl.Int64)
    exponents = numbers.str.extract(r"[eE]\+?(\d+)$").cast(pl.Int64)
    return not bool((digits > exponents).any())


def shown_units(counts: dict[str, int]) -> Sequence[str]:
    """The units in words, the most frequent first."""
    words = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    return [words.get(unit, unit) for unit in sorted(counts, key=lambda unit: -counts[unit])]


def extended(known: TimeForms, found: TimeForms) -> TimeForms:
    """The formats of both; a new format replaces a known one that differs only by the order of day and month."""
    kept = tuple(
        form for form in known.forms if form not in {_swapped(new) for new in found.forms if _swapped(new) != new}
    )
    forms = kept + tuple(form for form in found.forms if form not in kept)
    return TimeForms(
        known.unit, forms, known.mangled or (found.mangled and not known.forms), found.doubt or known.doubt
    )


def _swapped(form: str) -> str:
    """The format with day and month swapped."""
    return form.replace("%m", "%_").replace("%d", "%m").replace("%_", "%d")
