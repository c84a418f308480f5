"""A source table before cleaning, and the errors for tables that cannot be read."""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from darec.dataset.look import looks_like_data, mismatch
from darec.dataset.unpack import wrong_encoding
from schemas.data import Column, FileFormat

MORE_FIELDS = "__more_fields__"
"""A column of delimited files for fields of a row beyond the columns of the header."""


@dataclass(frozen=True)
class RawTable:
    """A source table with darec's column names and unchanged values."""

    rows: pl.LazyFrame
    path: Path
    names: Mapping[str, str]
    """Maps darec's column names to those of the file; columns that the file lacks are absent."""
    form: FileFormat = field(default_factory=FileFormat)
    """The completed format of the file."""
    unread: tuple[str, ...] = ()
    """Columns of the file that are not read."""
    attributes: tuple[str, ...] = ()
    """Columns of the file that become attributes."""
    doubts: tuple[str, ...] = ()
    """What may be wrong with the file, for the report."""

    def place(self, column: str) -> str:
        """The file and the name of the column, for messages."""
        return f"{self.path}, column {self.names.get(column, column)!r}"

    def collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Runs a query over this table, streaming. Raises UserError for a file that cannot be read."""
        with reading(self.path):
            return rows.collect(engine="streaming")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Converts Polars' errors about a file's content into a UserError with file, reason and hint."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        raise _explained(error, path) from error


def _explained(error: BaseException, path: Path) -> UserError:
    text = str(error)
    if isinstance(error, pl.exceptions.NoDataError):
        return UserError("the file is empty", where=str(path), hint="give a file with a header line and rows")
    if isinstance(error, UnicodeDecodeError) or "utf-8" in text or "utf8" in text:
        return wrong_encoding(path, _first_undecodable_line(path))
    if "parquet" in text.lower() or "thrift" in text.lower():
        what = "this is not a Parquet file, or it is truncated or damaged"
        return UserError(what, where=str(path), hint="write the file again, or correct data.source")

    if "could not parse" in text and "as dtype `str`" in text:
        what = f"a quote does not enclose a whole field ({text.splitlines()[0]})"
        return UserError(what, where=str(path), hint="set quote: none for this file if its fields are never quoted")

    reason = text.splitlines()[0] if text else "damaged"
    return UserError(f"the file cannot be read ({reason})", where=str(path), hint="write the file again")


def first_long_line(path: Path, separator: str, width: int) -> int:
    """The number of the first line with more than `width` fields, 0 if there is none."""
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        lines = csv.reader(stream, delimiter=separator if len(separator) == 1 else ",")
        return next((lines.line_num for fields in lines if len(fields) > width and any(fields[width:])), 0)


def _first_undecodable_line(path: Path) -> int:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def named_columns(
    rows: pl.LazyFrame, mapped: Mapping[str, Column], path: Path, form: FileFormat, role: str
) -> dict[str, str]:
    """Resolves mapped columns, which may be given by number, to names.

    Args:
        rows: the table.
        mapped: the column for each field of the recipe's section.
        path: the table's file.
        form: its completed format.
        role: interaction, item or user: the beginning of the recipe's sections.

    Raises:
        UserError: a column does not exist. If the format of the file differs from the recipe, the message describes it;
        otherwise it names the nearest column.
    """
    present = [name for name in rows.collect_schema().names() if name != MORE_FIELDS]
    names = {field: name_of(column, present) for field, column in mapped.items()}
    missing = [field for field in mapped if names[field] is None]
    is_row = form.header and any(isinstance(column, str) and looks_like_data(column) for column in mapped.values())
    if (missing or is_row) and (found := mismatch(path, form)):
        what, settings = found
        first = next(iter(missing), None)
        lacks = f"there is no column {mapped[first]!r}: " if first else ""
        hint = f"set data.{role}_format: {settings}"
        if "header" in settings:
            hint += f", and give data.{role}_columns by number, such as {next(iter(mapped))}: 1"
        raise UserError(lacks + what, where=str(path), hint=hint + "; `darec data inspect` prints the whole section")

    if missing:
        column = mapped[missing[0]]
        what = f"there is no column {column!r}; {instead_of(str(column), present)}"
        raise UserError(what, where=str(path), hint=f"correct data.{role}_columns.{missing[0]}")

    return {field: name for field, name in names.items() if name is not None}


def name_of(column: Column, present: Sequence[str]) -> str | None:
    """The name of a mapped column among those that are present; None if it is not there."""
    if isinstance(column, int):
        return present[column - 1] if 0 < column <= len(present) else None
    if column in present:
        return column
    return next((name for name in present if name.strip() == column), None)


def common_type(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """The type of a column that holds values of both; None if they cannot be mixed."""
    if one == other:
        return one
    if pl.Null not in (one, other) and isinstance(one, pl.List | pl.Array) != isinstance(other, pl.List | pl.Array):
        return None  # Polars would find a type, and fail when the rows are read
    both = [pl.LazyFrame(schema={"column": kind}) for kind in (one, other)]
    try:
        return pl.concat(both, how="vertical_relaxed").collect_schema()["column"]
    except pl.exceptions.PolarsError:
        return None


def instead_of(column: str, present: Sequence[str]) -> str:
    """For messages about a missing column: the column that may be meant, or those that are present."""
    by_plain = {name.lower().strip(): name for name in reversed(present)}
    nearest = difflib.get_close_matches(column.lower(), by_plain, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {by_plain[nearest[0]]!r}?"
    return f"the file has {', '.join(map(repr, present[:20]))}"
