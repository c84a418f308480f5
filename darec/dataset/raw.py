"""Opening source files lazily, and saying clearly what is wrong with one that cannot be read."""

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from schemas import columns as c
from schemas.tables import ITEMS


@dataclass(frozen=True)
class RawTable:
    """A source table under the product's column names, its values still as the file has them."""

    rows: pl.LazyFrame
    path: Path
    names: Mapping[str, str]
    """Product column name -> what the file calls it; columns that the file lacks are absent."""

    def place(self, column: str) -> str:
        """The file and its column, for messages."""
        return f"{self.path}, column {self.names.get(column, column)!r}"

    def collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Runs a query over this table, streaming. Raises UserError for a file that cannot be read."""
        with reading(self.path):
            return rows.collect(engine="streaming")


def scan_delimited(
    path: Path, separator: str, encoding: str = "utf-8", quote: str | None = '"', header: bool = True
) -> pl.LazyFrame:
    """A delimited text file, every column as text. Only UTF-8 is streamed; other encodings are decoded in memory."""
    with reading(path, separator):
        if encoding == "utf-8":
            rows = pl.scan_csv(
                path, separator=separator, quote_char=quote, has_header=header, infer_schema=False, glob=False
            )
        else:
            rows = pl.read_csv(
                path,
                separator=separator,
                quote_char=quote,
                has_header=header,
                infer_schema=False,
                encoding=encoding,
                glob=False,
            ).lazy()
        rows.collect_schema()
    return rows


def scan_atomic(path: Path, encoding: str = "utf-8") -> pl.LazyFrame:
    """A RecBole atomic file: tab-separated, unquoted, its header fields being `name:type`; the types are dropped."""
    rows = scan_delimited(path, "\t", encoding, quote=None)
    return rows.rename(lambda name: name.rpartition(":")[0] or name)


def scan_parquet(path: Path) -> pl.LazyFrame:
    """A Parquet file. Raises UserError for a file that is not one, or is cut short."""
    with reading(path):
        rows = pl.scan_parquet(path, glob=False)
        rows.collect_schema()
    return rows


@contextmanager
def reading(path: Path, separator: str = "") -> Iterator[None]:
    """Turns Polars' errors about a file's content into a UserError that names file, reason, and remedy."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        what, hint = _explain(error, path, separator)
        raise UserError(what, where=str(path), hint=hint) from error


def _explain(error: BaseException, path: Path, separator: str) -> tuple[str, str]:
    text = str(error)
    if isinstance(error, pl.exceptions.NoDataError):
        return "the file is empty", "give a file with a header line and rows"
    if "more fields" in text:
        line = _first_long_line(path, separator)
        return f"line {line} has more fields than the header", "quote fields that hold the separator"
    if isinstance(error, UnicodeDecodeError) or "utf-8" in text:
        line = _first_undecodable_line(path)
        return f"line {line} is not in the expected encoding", "save the file as UTF-8, or set data.encoding"
    if "parquet" in text.lower():
        return "this is no Parquet file, or it is cut short or damaged", "write the file again, or correct data.source"
    return f"the file cannot be read ({text.splitlines()[0] if text else 'damaged'})", "write the file again"


def _first_long_line(path: Path, separator: str) -> int:
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        lines = csv.reader(stream, delimiter=separator or ",")
        width = len(next(lines))
        return next((lines.line_num for fields in lines if len(fields) > width), 0)


def _first_undecodable_line(path: Path) -> int:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def require_columns(rows: pl.LazyFrame, names: Mapping[str, str], path: Path, section: str) -> None:
    """Raises UserError, with the nearest name, if a mapped column (field of `section` -> column) is not there."""
    present = rows.collect_schema().names()
    for field, name in names.items():
        if name not in present:
            nearest = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the file has {', '.join(map(repr, present[:20]))}"
            raise UserError(
                f"there is no column {name!r}; {hint}", where=str(path), hint=f"correct data.{section}.{field}"
            )


def as_text(rows: pl.LazyFrame, column: str) -> pl.Expr:
    """A column of any type as trimmed text; the values of a list are joined by commas."""
    kind, values = rows.collect_schema()[column], pl.col(column)
    if isinstance(kind, pl.List | pl.Array):
        values = values.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    elif isinstance(kind, pl.Struct):
        values = values.struct.json_encode()
    return values.cast(pl.String).str.strip_chars()


def attribute_list(rows: pl.LazyFrame, columns: Sequence[str]) -> pl.Expr:
    """The attributes of each row: a list of (name, value), in the order of `columns`, without empty values."""
    if not columns:
        return pl.lit([], ITEMS[c.ATTRIBUTES]).alias(c.ATTRIBUTES)
    pairs = [pl.struct(pl.lit(name).alias("name"), as_text(rows, name).alias("value")) for name in columns]
    filled = pl.element().struct.field("value").str.len_bytes() > 0
    return pl.concat_list(pairs).list.filter(filled).alias(c.ATTRIBUTES)
