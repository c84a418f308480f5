"""Reads and writes the tables of `schemas.tables`, and checks them against their schema."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from darec.common.errors import DarecError
from schemas.tables import TableSchema, with_extras

NO_EXTRAS = TableSchema({})


def conform(table: pl.DataFrame, schema: TableSchema, where: str) -> pl.DataFrame:
    """`table` with the schema's columns in the schema's order.

    Raises:
        DarecError: a column is missing, of another type, or holds a null though the schema does not allow it.
    """
    for name, dtype in schema.items():
        if name not in table.columns:
            raise DarecError(f"column {name!r} is missing", where=where)
        if table.schema[name] != dtype:
            raise DarecError(f"column {name!r} is {table.schema[name]}, not {dtype}", where=where)

    nulls = table.select(pl.col(schema.required).null_count())
    _refuse_nulls(zip(nulls.columns, nulls.row(0), strict=True), table.height, where)
    return table.select(list(schema))


def _refuse_nulls(counts: Iterable[tuple[str, int]], rows: int, where: str) -> None:
    for name, count in counts:
        if count:
            raise DarecError(f"column {name!r} is null in {count:,} of {rows:,} rows", where=where)


def write_table(
    table: pl.DataFrame,
    path: Path,
    schema: TableSchema,
    extras: TableSchema = NO_EXTRAS,
    rows_in_group: int | None = None,
) -> None:
    """Writes `table` as Parquet (zstd), with the columns of `extras` that it has; equal tables give equal bytes.

    `rows_in_group`: size of a row group, which a reader of one row has to decode; by default that of Polars.
    """
    conformed = conform(table, with_extras(schema, extras, table.columns), str(path))
    conformed.write_parquet(path, compression="zstd", statistics=True, row_group_size=rows_in_group)


def sink_table(query: pl.LazyFrame, path: Path, schema: TableSchema, extras: TableSchema = NO_EXTRAS) -> None:
    """Writes the rows of a query while it is computed, so that they are never all in memory.

    Raises:
        DarecError: they do not have the schema.
    """
    import pyarrow.parquet as pq

    present = query.collect_schema()
    wanted = with_extras(schema, extras, present.names())
    conform(pl.DataFrame(schema=present), wanted, str(path))
    query.select(list(wanted)).sink_parquet(path, compression="zstd", statistics=True, engine="streaming")

    about = pq.read_metadata(path)
    groups = [about.row_group(group) for group in range(about.num_row_groups)]
    columns = [(name, place) for place, name in enumerate(wanted) if name in wanted.required]
    nulls = ((name, sum(group.column(place).statistics.null_count for group in groups)) for name, place in columns)
    _refuse_nulls(nulls, about.num_rows, str(path))


def places_of(path: Path, column: str, values: Sequence[str]) -> list[int] | None:
    """The row numbers of `values` in a text column of a Parquet file, read from the row groups that may contain them.

    None if a value is not found there; then a full scan is needed.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True)
    number, groups, start = file.schema_arrow.get_field_index(column), [], 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        groups.append((group, start, about.column(number).statistics))
        start += about.num_rows

    wanted, places = set(values), []
    for group, first, known in groups:
        if known is None or not known.has_min_max or not any(known.min <= value <= known.max for value in wanted):
            continue
        texts = pl.Series(file.read_row_group(group, columns=[column]).column(0))
        found = texts.is_in(list(wanted)).arg_true()
        places += (found + first).to_list()
        wanted -= set(texts.gather(found))
        if not wanted:
            break

    return None if wanted else places


def read_table(path: Path, schema: TableSchema, extras: TableSchema = NO_EXTRAS) -> pl.DataFrame:
    """Reads a Parquet table that `write_table` wrote, with the columns of `extras` that it has.

    Raises:
        DarecError: the file is missing, truncated, or does not have the schema.
    """
    with reading(path):
        table = pl.read_parquet(path)
    return conform(table, with_extras(schema, extras, table.columns), str(path))


def scan_table(path: Path, schema: TableSchema, extras: TableSchema = NO_EXTRAS) -> pl.LazyFrame:
    """The same table as a query, for one that may not fit in memory; its nulls are not counted.

    Raises:
        DarecError: the file is missing, truncated, or does not have the schema.
    """
    with reading(path):
        rows = pl.scan_parquet(path, glob=False)
        present = rows.collect_schema()
    wanted = with_extras(schema, extras, present.names())
    conform(pl.DataFrame(schema=present), wanted, str(path))
    return rows.select(list(wanted))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors about the file of a table into a DarecError that says how to rebuild it."""
    hint = "delete the artifact's folder and run again: it is rebuilt"
    try:
        yield
    except DarecError:
        raise
    except FileNotFoundError as error:
        raise DarecError("the table is missing", where=str(path), hint=hint) from error
    except Exception as error:
        what = f"the table cannot be read ({str(error).splitlines()[0]})"
        raise DarecError(what, where=str(path), hint=hint) from error
