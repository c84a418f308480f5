"""Checks ids by their values: missing values, rounded numbers, variants of one id, and unknown ids.

All checks work on the distinct ids of a column, which are far fewer than its rows.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.dataset.describe import from_bytes
from darec.dataset.raw import RawTable

_INVISIBLE = "[\u00ad\u200b-\u200f\u2060\ufeff]"
_WHOLE_FLOAT, _BROKEN_FLOAT = r"^-?\d+\.0+$", r"^-?\d+\.\d*[1-9]\d*$"
_MANGLED = r"^-?\d(\.\d+)?[eE]\+\d+$|^-?\d\.\d+E\d+$"  # 1E+16: digits are lost, so several ids may have become one
_SCIENTIFIC_FROM = 1e16
_NEAREST_OF = 20_000  # maximum number of catalogue ids that are searched for a similar one

EMPTY, MANGLED, UNKNOWN = 1, 2, 3
"""Problems of an id; 0 means none."""


@dataclass(frozen=True)
class Ids:
    """The distinct values of an id column, and the id of each."""

    codes: NDArray[np.int32]
    """Maps the code of a value to the row of `ids`, -1 for a value that is not an id; shape (values + 1,), the last
    entry is for null.
    """
    problems: NDArray[np.uint8]
    """Maps the code of a value to its problem."""
    ids: pl.Series
    """The ids in sorted order."""
    examples: dict[int, str] = field(default_factory=dict)
    """For each problem that occurs, the most frequent value that has it, in words."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the report."""
    twins: tuple[int, str, str] | None = None
    """Number of rows with an id that has a more frequent variant and was kept separate, an example, and the kind of
    difference.
    """
    nearest: tuple[str, str] | None = None
    """The most frequent unknown id, and the most similar id of the catalogue."""


def as_id(raw: RawTable, column: str) -> pl.Expr:
    """External ids as text, not checked yet. Raises UserError for a column that is neither text nor numbers."""
    kind, values = raw.rows.collect_schema()[column], pl.col(column)
    if kind == pl.Binary:
        return from_bytes(values)

    if kind.is_float() or kind.is_decimal():
        return _whole_number(values.cast(pl.Float64))
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise UserError(
            f"ids are {kind}, not text or whole numbers", where=raw.place(column), hint="store them as text"
        )

    return values.cast(pl.String)


def _whole_number(values: pl.Expr) -> pl.Expr:
    """Floats as text: whole numbers without a decimal point, other values unchanged, very large
    ones with an exponent.
    """
    is_whole = (values == values.round()) & (values.abs() < _SCIENTIFIC_FROM)
    text = values.fill_nan(None).cast(pl.String).str.replace("e", "e+", literal=True)
    return pl.when(is_whole).then(values.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(text)


def tidied(values: pl.Series, null_values: Sequence[str]) -> pl.Series:
    """Ids without surrounding blanks and invisible characters, in one Unicode form, with words for missing values as
    null.

    A trailing `.0` is removed unless another value of the column has a fraction.
    """
    text = values.cast(pl.String).str.replace_all(_INVISIBLE, "").str.strip_chars().str.normalize("NFC")
    words = [word.lower() for word in ("", *null_values)]
    missing = text.str.to_lowercase().is_in(words)
    text = text.to_frame("id").select(pl.when(~missing).then("id")).to_series()
    if text.str.contains(_WHOLE_FLOAT).any() and not text.str.contains(_BROKEN_FLOAT).any():
        return text.str.replace(r"^(-?\d+)\.0+$", "$1")
    return text


def resolve(
    values: pl.DataFrame,
    null_values: Sequence[str],
    merge: Sequence[str],
    catalogue: pl.Series | None,
) -> Ids:
    """Maps each value of a column to its id.

    Args:
        values: the result of `Numbering.distinct`.
        null_values: words for missing values.
        merge: the differences that are ignored: case, zeros, spaces.
        catalogue: the normalised known ids, if other ids are unknown.
    """
    table = values.with_columns(id=tidied(values["value"], null_values))
    mangled = table["id"].str.contains(_MANGLED).fill_null(False)
    tidy_notes = _merged_note(table.filter(~mangled), "blanks, invisible characters, Unicode forms or .0")
    if merge:
        table = table.with_columns(id=_merged(table, merge, catalogue))

    problem = pl.when(pl.col("id").is_null()).then(EMPTY).when(pl.lit(mangled)).then(MANGLED)
    if catalogue is not None:
        problem = problem.when(~pl.col("id").is_in(catalogue.implode())).then(UNKNOWN)
    table = table.with_columns(problem=problem.otherwise(0).cast(pl.UInt8))

    # Arrays indexed by code, so that a column of millions of rows is mapped by indexing.
    known = table.filter(pl.col("problem") == 0)
    ids = known["id"].unique().sort()
    numbers = np.full(int(values["code"].to_numpy().max(initial=0)) + 2, -1, np.int32)
    problems = np.full(len(numbers), EMPTY, np.uint8)
    numbers[known["code"].to_numpy()] = known["id"].rank("dense").to_numpy().astype(np.int32) - 1
    problems[table["code"].to_numpy()] = table["problem"].to_numpy()

    nearest = _most_wanted(table, catalogue)
    examples = {
        kind: repr(value) for kind in (EMPTY, MANGLED, UNKNOWN) if (value := _most_frequent(table, kind)) is not None
    }
    if nearest is not None:
        examples[UNKNOWN] = f"{nearest[0]!r}, nearest in the items {nearest[1]!r}"
    return Ids(numbers, problems, ids, examples, tidy_notes, _twins(known, merge), nearest)


def difference(one: str, other: str) -> str | None:
    """The kind of difference between two ids (case, zeros, spaces), None if there is another one."""
    return next((kind for kind in ("case", "zeros", "spaces") if _same([one, other], kind)), None)


def _most_frequent(table: pl.DataFrame, problem: int) -> str | None:
    values = table.filter(pl.col("problem") == problem).sort("rows", "value", descending=[True, False])["value"]
    return values[0] if len(values) else None


def _most_wanted(table: pl.DataFrame, catalogue: pl.Series | None) -> tuple[str, str] | None:
    value = _most_frequent(table, UNKNOWN)
    if value is None or catalogue is None or (nearest := _nearest(value, catalogue)) is None:
        return None
    return value, nearest


def _nearest(value: str, catalogue: pl.Series) -> str | None:
    """The id of the catalogue that differs only by case, zeros, blanks or .0, or else the most similar one."""
    loose = catalogue.to_frame("id").select(_loose(pl.col("id"))).to_series()
    same = catalogue.filter(loose == pl.select(_loose(pl.lit(value))).item())
    if len(same):
        return same[0]
    return next(iter(difflib.get_close_matches(value, catalogue.head(_NEAREST_OF).to_list(), n=1, cutoff=0.6)), None)


def merge_key(ids: pl.Expr, merge: Sequence[str]) -> pl.Expr:
    """A key that is equal for ids that differ only by case, leading zeros or blanks."""
    if "case" in merge:
        ids = ids.str.to_lowercase()
    if "spaces" in merge:
        ids = ids.str.replace_all(r"\s+", " ")
    if "zeros" in merge:
        ids = ids.str.replace(r"^0+(\d)", "$1")
    return ids


def _loose(ids: pl.Expr) -> pl.Expr:
    return merge_key(ids, ("case", "spaces", "zeros")).str.replace(r"^(-?\d+)\.0+$", "$1")


def _merged(table: pl.DataFrame, merge: Sequence[str], catalogue: pl.Series | None) -> pl.Series:
    """For each key, the id in the catalogue, or else the most frequent id."""
    known = pl.lit(True) if catalogue is None else pl.col("id").is_in(catalogue.implode())
    rows = pl.col("rows").sum().over("id")
    keyed = table.with_columns(key=merge_key(pl.col("id"), merge), known=known, weight=rows)
    best = (
        keyed.sort("known", "weight", "id", descending=[True, True, False])
        .group_by("key")
        .agg(best=pl.col("id").first())
    )
    if catalogue is not None:
        own = catalogue.to_frame("own").with_columns(key=merge_key(pl.col("own"), merge)).unique("key", keep="first")
        best = best.join(own, on="key", how="left").with_columns(best=pl.coalesce("own", "best"))

    return keyed.join(best, on="key", how="left", maintain_order="left")["best"]


def _merged_note(table: pl.DataFrame, kinds: str) -> list[str]:
    """A remark about different values of one id."""
    several = table.drop_nulls("id").filter(pl.col("id").is_duplicated())
    groups = several.group_by("id").agg("value", values=pl.len()).sort("id")
    if groups.is_empty():
        return []
    first, second = groups["value"][0].sort()[:2]
    count = int(groups["values"].sum()) - groups.height
    return [f"{count:,} ids were joined with others that differ only by {kinds}, such as {first!a} and {second!a}"]


def _twins(known: pl.DataFrame, merge: Sequence[str]) -> tuple[int, str, str] | None:
    """Rows with ids that differ from a more frequent one only by case, leading zeros, blanks or .0, and were not
    merged.
    """
    ids = known.group_by("id").agg(pl.col("rows").sum()).with_columns(key=_loose(pl.col("id")))
    groups = ids.filter(pl.len().over("key") > 1)
    if groups.is_empty():
        return None

    first = groups.sort("key", "id")
    pair = first.filter(pl.col("key") == first["key"][0])["id"][:2].to_list()
    kinds = [kind for kind in ("case", "zeros", "spaces") if kind not in merge and _same(pair, kind)]
    most = groups.group_by("key").agg(pl.col("rows").max())["rows"].sum()
    return (
        int(groups["rows"].sum()) - int(most),
        f"{pair[0]!r} and {pair[1]!r}",
        kinds[0] if kinds else "case, zeros, spaces",
    )


def _same(pair: list[str], kind: str) -> bool:
    return len(set(pl.Series(pair).to_frame("id").select(merge_key(pl.col("id"), (kind,))).to_series())) == 1
