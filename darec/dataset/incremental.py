"""Reads tables into Parquet: the whole table first, then only new rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from darec.common.errors import UserError
from darec.dataset.connections import Since, TableConnection
from darec.dataset.copies import link, part_name, parts_in
from darec.dataset.raw import common_type, instead_of, name_of
from schemas.data import Column
from schemas.places import Table

_MOST_PARTS = 100
_ROW_HASH, _OCCURRENCE = "__row_hash__", "__occurrence__"


@dataclass(frozen=True)
class Read:
    """The result of a read."""

    version: str | None
    """The state of the table, from its watermark or reported by the source."""
    rows: int
    """Rows that are new, or all rows if everything was read."""
    changed: bool
    """Whether the rows of the copy have changed."""


def read_whole(
    connection: TableConnection, table: Table, draft: Path, before: Sequence[Path], where: str, limit: int | None = None
) -> Read:
    """Reads all rows into `draft`. If they are the rows of the previous copy, in any order, nothing has changed.

    Args:
        connection: the open source.
        table: its section of the recipe.
        draft: an empty folder.
        before: the files of the existing copy, if any.
        where: the source, for messages.
        limit: approximate maximum number of rows to read.
    """
    part = draft / part_name(0)
    count = _write(connection, None, part, where, limit)
    _check(table, pl.scan_parquet(part), where)
    version = connection.state() or _window(table, part, [part])
    _keep_newest(part, table)
    return Read(version, count, not _same_rows([part], before))


def read_new(
    connection: TableConnection,
    table: Table,
    since: Since,
    draft: Path,
    before: Sequence[Path],
    where: str,
    columns: Sequence[Column] = (),
) -> Read:
    """Reads the rows not below a bound, and fills `draft` with the previous copy and the new rows.

    Rows that the copy has are not added again; the number of equal rows is that of the source. With `table.key`, a row
    replaces the row with the same key.

    Args:
        connection: the open source.
        table: its section of the recipe.
        since: the bound.
        draft: an empty folder.
        before: the files of the existing copy.
        where: the source, for messages.
        columns: the columns that the recipe reads.

    Raises:
        UserError: the source no longer has a column that the recipe reads from the copy, or has it in a type whose
            values cannot be mixed with those of the copy.
    """
    read = draft / "read.parquet"
    _write(connection, since, read, where)
    _check(table, pl.scan_parquet(read), where)
    _check_columns(columns, rows_of(before), pl.scan_parquet(read), where)
    _check_types(table, rows_of(before), pl.scan_parquet(read), where)
    fresh = draft / part_name(_number(before[-1]) + 1)
    _absent(read, before, since).sink_parquet(fresh)
    version = connection.state() or _window(table, read, [*before, fresh])
    read.unlink()
    count = pl.scan_parquet(fresh).select(pl.len()).collect().item()
    if count == 0:
        return Read(version, 0, False)

    # Unchanged files of the copy become hard links.
    _keep_newest(fresh, table)
    for part in before:
        _keep(part, draft / part.name, fresh, table)
    _compact(draft)
    return Read(version, count, True)


def since_of(table: Table, parts: Sequence[Path]) -> Since | None:
    """The bound from which rows are read, given the existing copy; None if all rows must be read.

    Raises:
        UserError: the parts of the copy have types that cannot be mixed.
    """
    if table.watermark is None or not parts:
        return None

    rows = rows_of(parts)
    try:
        names = rows.collect_schema()
    except pl.exceptions.PolarsError as error:
        hint = "run `darec data fetch --full` to read the table again"
        raise UserError(f"the parts of the copy differ ({error})", where=str(parts[0].parent), hint=hint) from error
    if table.watermark not in names:
        return None

    value = rows.select(pl.col(table.watermark).max()).collect().item()
    if value is None:
        return None
    return Since(table.watermark, _earlier(value, table.lag))


def unread(connection: TableConnection, table: Table, since: Since) -> str | None:
    """The current state of a table by its watermark, queried from the source; None if the source
    does not support it.
    """
    if (asked := connection.newest(since)) is None:
        return None
    with asked as reader:
        found = pl.from_arrow(_plain(batch) for batch in reader)
    assert isinstance(found, pl.DataFrame)
    return _state(*found.row(0))


def _window(table: Table, read: Path, parts: Sequence[Path]) -> str | None:
    """The state by the watermark: the value of `unread` as long as the source has the rows that were just read.

    Args:
        table: the section of the recipe.
        read: the rows of the source.
        parts: the copy, which determines the bound of the next read.
    """
    since = since_of(table, parts)
    if since is None:
        return None
    column = pl.col(since.column)
    rows = pl.scan_parquet(read).filter(column >= pl.lit(since.value)).select(pl.len(), column.max())
    return _state(*rows.collect().row(0))


def _state(rows: int, newest: Any) -> str:
    return f"{rows} rows, up to {newest}"


def _earlier(value: Any, lag: float) -> Any:
    if not lag:
        return value
    return value - (lag if isinstance(value, float) else int(lag) if isinstance(value, int) else timedelta(days=lag))


def _check(table: Table, rows: pl.LazyFrame, where: str) -> None:
    """Raises UserError unless the columns named in the recipe exist and the watermark is ordered."""
    schema = rows.collect_schema()
    for field, column in [("watermark", table.watermark), *(("key", column) for column in table.key)]:
        if column is not None and column not in schema:
            names = ", ".join(map(repr, schema.names()[:20]))
            raise UserError(
                f"there is no column {column!r}; the table has {names}", where=where, hint=f"correct {field}"
            )

    if table.watermark is not None:
        kind = schema[table.watermark]
        if not (kind.is_numeric() or isinstance(kind, pl.Datetime | pl.Date) or kind == pl.String):
            hint = "use a column of numbers, times or texts"
            raise UserError(f"the watermark {table.watermark!r} is {kind}", where=where, hint=hint)
        if table.lag and kind == pl.String:
            hint = "set lag to 0, or use a column of times or numbers"
            raise UserError("the watermark is a text, which cannot have a lag", where=where, hint=hint)


def _check_columns(columns: Sequence[Column], old: pl.LazyFrame, new: pl.LazyFrame, where: str) -> None:
    """Raises UserError if the new rows lack a column that the recipe reads from the copy: they would be lost."""
    before, present = old.collect_schema().names(), new.collect_schema().names()
    names = [name_of(column, before) for column in columns]
    if missing := [name for name in names if name is not None and name not in present]:
        what = f"the table no longer has the column {missing[0]!r}; {instead_of(missing[0], present)}"
        hint = "name it so in the query, or correct the columns of the recipe and run `darec data fetch --full`"
        raise UserError(what, where=where, hint=hint)


def _check_types(table: Table, old: pl.LazyFrame, new: pl.LazyFrame, where: str) -> None:
    """Raises UserError if a column has changed its type so that old and new values cannot be mixed."""
    before, now = old.collect_schema(), new.collect_schema()
    for name in now.keys() & before.keys():
        ordered = name != table.watermark or (before[name] == pl.String) == (now[name] == pl.String)
        if not (ordered and _mixable(before[name], now[name])):
            hint = "run `darec data fetch --full` to read the table again, or cast the column in the query"
            raise UserError(f"column {name!r} was {before[name]} and is now {now[name]}", where=where, hint=hint)


def _mixable(old: pl.DataType, new: pl.DataType) -> bool:
    """Whether values of both types keep their meaning in one column. Polars would make numbers of times."""
    if (old.is_temporal() and new.is_numeric()) or (old.is_numeric() and new.is_temporal()):
        return False
    return common_type(old, new) is not None


def _write(connection: TableConnection, since: Since | None, path: Path, where: str, limit: int | None = None) -> int:
    """Streams rows to a Parquet file; returns their number."""
    count = 0
    with connection.rows(since) as reader:
        names = reader.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            hint = "name each column of the query once, with AS"
            raise UserError(f"two columns are named {twice[0]!r}", where=where, hint=hint)
        schema = _plain(_empty(reader.schema)).schema
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(_plain(batch, where).cast(schema))
                count += batch.num_rows
                if limit is not None and count >= limit:
                    break

    return count


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _plain(batch: pa.RecordBatch, where: str = "") -> pa.RecordBatch:
    """A batch with column types that Polars and ingest support."""
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    columns = [_plain_column(name, column, where) for name, column in pairs]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _plain_column(name: str, column: pa.Array, where: str) -> pa.Array:
    """Decimal numbers as 64 bits, UUIDs as text, and other extension types as their storage types."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        is_number = getattr(kind, "type_name", "") == "numeric"
        return column.storage.cast(pa.float64()) if is_number else column.storage

    if not pa.types.is_decimal(kind):
        return column

    try:
        return column.cast(pa.int64() if kind.scale == 0 else pa.float64())
    except pa.ArrowInvalid:
        what = f"column {name!r} has integers of more than 64 bits"
        raise UserError(what, where=where, hint="cast it to text in the query") from None


def _hashed(rows: pl.LazyFrame, names: Sequence[str]) -> pl.LazyFrame:
    """Rows with a hash of their values, and a running number among equal rows."""
    hashed = rows.with_columns(pl.struct(names).hash(seed=1).alias(_ROW_HASH))
    return hashed.with_columns(pl.int_range(pl.len()).over(_ROW_HASH).alias(_OCCURRENCE))


def _absent(read: Path, before: Sequence[Path], since: Since) -> pl.LazyFrame:
    """The rows of a file that the copy lacks."""
    rows, old = pl.scan_parquet(read), rows_of(before)
    schema = rows.collect_schema()
    if set(old.collect_schema()) != set(schema):
        names = [name for name in schema if name in old.collect_schema()]
    else:
        names = list(schema)

    within = old.filter(pl.col(since.column) >= pl.lit(since.value))
    within = within.select(pl.col(name).cast(schema[name], strict=False) for name in names)
    found = _hashed(within, names).select(_ROW_HASH, _OCCURRENCE)
    missing = _hashed(rows, names).join(found, on=[_ROW_HASH, _OCCURRENCE], how="anti", maintain_order="left")
    return missing.drop(_ROW_HASH, _OCCURRENCE)


def _keep_newest(part: Path, table: Table) -> None:
    """Reduces a file to the newest row of each key, if the table has one."""
    if not table.key:
        return
    assert table.watermark is not None
    ordered = pl.scan_parquet(part).sort(table.watermark, maintain_order=True, nulls_last=False)
    newest = part.with_name("newest.parquet")
    ordered.unique(list(table.key), keep="last", maintain_order=True).sink_parquet(newest)
    newest.replace(part)


def _keep(part: Path, target: Path, fresh: Path, table: Table) -> None:
    """Adds an older part to the draft, without the rows that new rows with the same key replace."""
    if table.key:
        rows, new = pl.scan_parquet(part), pl.scan_parquet(fresh)
        common = rows_of([part, fresh]).collect_schema()
        key = [pl.col(name).cast(common[name]) for name in table.key]
        kept = rows.join(new, left_on=key, right_on=key, how="anti", nulls_equal=True, maintain_order="left").collect()
        if kept.height < rows.select(pl.len()).collect().item():
            kept.write_parquet(target)
            return
    link(part, target)


def _compact(draft: Path) -> None:
    """Merges many small files into one."""
    parts = parts_in(draft)
    if len(parts) > _MOST_PARTS:
        rows_of(parts).sink_parquet(draft / "all.parquet")
        for part in parts:
            part.unlink()
        (draft / "all.parquet").rename(draft / parts[-1].name)


def _same_rows(parts: Sequence[Path], before: Sequence[Path]) -> bool:
    """Whether a table has the rows of the previous copy, in any order."""
    try:
        return bool(before) and _fingerprint(parts) == _fingerprint(before)
    except pl.exceptions.PolarsError:  # the copy is damaged
        return False


def _fingerprint(parts: Sequence[Path]) -> tuple[Any, ...]:
    """A fingerprint that is equal for tables with the same rows, in any order."""
    rows = rows_of(parts)
    names = sorted(rows.collect_schema().names())
    kinds = [str(rows.collect_schema()[name]) for name in names]
    sums = [pl.struct(names).hash(seed=seed).sum().alias(str(seed)) for seed in (1, 2)]
    return (names, kinds, rows.select(pl.len().alias("rows"), *sums).collect(engine="streaming").row(0))


def rows_of(parts: Sequence[Path]) -> pl.LazyFrame:
    """The rows of a copy. Parts may differ in their columns and types, as the table did when they were read."""
    return pl.concat([pl.scan_parquet(part, glob=False) for part in parts], how="diagonal_relaxed")


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))
