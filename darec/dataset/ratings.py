"""Recognises ratings by their values: numbers, yes and no, decimal commas, and their scale."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.dataset.raw import RawTable

_WORDS = {
    "true": 1, "t": 1, "yes": 1, "y": 1, "like": 1, "liked": 1, "up": 1, "thumbs up": 1, "thumbs_up": 1, "positive": 1,
    "false": 0, "f": 0, "no": 0, "n": 0, "dislike": 0, "disliked": 0, "down": 0, "thumbs down": 0, "thumbs_down": 0,
    "negative": 0,
}  # fmt: skip
_DECIMAL_COMMA = r"^[-+]?(\d+,(\d{1,2}|\d{4,})|0,\d+)$"  # not 1,234, which may have a thousands separator
_STARS = 5.0
_NOT_RATED = -1.0  # of items that were used and not rated
_MOST = 0.99  # minimum share of the ratings that defines the scale; outliers are ignored


@dataclass(frozen=True)
class Scale:
    """The scale of ratings."""

    words: str
    """A description such as "1 to 10 (median 7)"."""
    is_stars: bool
    """Whether a threshold of 4 separates likes from the rest: values from 0 to 5 that reach 4."""
    suggestion: float | None
    """A suggested threshold."""


def as_rating(raw: RawTable, column: str) -> pl.Expr:
    """Ratings as float32, null if the text is neither a number nor a word for yes or no."""
    kind, values = raw.rows.collect_schema()[column], pl.col(column)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        values = parsed(values.cast(pl.String), raw.form.decimal_comma)
    elif not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise UserError(f"ratings are {kind}, not numbers", where=raw.place(column), hint="store them as numbers")
    return values.cast(pl.Float32, strict=False)


def parsed(text: pl.Expr, decimal_comma: bool | None = None) -> pl.Expr:
    """The values of texts, null if a text is neither a number nor a word for yes or no; `decimal_comma` as in
    `FileFormat`.
    """
    text = text.str.strip_chars()
    plain = text.cast(pl.Float64, strict=False)
    words = text.str.to_lowercase().replace_strict(_WORDS, default=None, return_dtype=pl.Float64)
    if decimal_comma is None:
        comma = pl.when(text.str.contains(_DECIMAL_COMMA)).then(text.str.replace(",", ".", literal=True))
        return pl.coalesce(plain, comma.cast(pl.Float64, strict=False), words)

    thousands, point = (".", ",") if decimal_comma else (",", ".")
    number = text.str.replace_all(thousands, "", literal=True).str.replace(point, ".", literal=True)
    return pl.coalesce(number.cast(pl.Float64, strict=False), words)


def scale_of(ratings: pl.Series) -> Scale | None:
    """The scale of a column of ratings, None if there are none."""
    numbers = ratings.drop_nulls().to_numpy()
    values = numbers[np.isfinite(numbers)]
    if not len(values):
        return None

    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    words = f"{low:g} to {high:g} (median {median:g})" if low < high else f"always {low:g}"
    within = (values >= 0) & (values <= _STARS)
    if low == _NOT_RATED and (values == low).any() and (within | (values == low)).all() and high > 3:
        return Scale(words, False, 4.0)
    if within.mean() >= _MOST and values[within].max() >= 4:
        return Scale(words, True, 4.0)
    return Scale(words, False, _threshold(values, low, high))


def _threshold(values: NDArray[np.float32], low: float, high: float) -> float | None:
    """80% of a scale that ends at 10 or 100, the greater of two values, and none for counts and constants."""
    if low == high:
        return None
    if high <= 1:
        return high if len(np.unique(values)) == 2 else round(low + 0.75 * (high - low), 2)
    if np.median(values) == low >= 1:
        return None  # most are the smallest number, as of pieces sold
    if high in (2.0, 3.0, 6.0, 7.0, 10.0, 20.0, 100.0) and low >= -1:
        return round(0.8 * high, 1)
    return None
