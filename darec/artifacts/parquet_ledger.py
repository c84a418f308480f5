"""The row ledger of version 0.1: a folder of Parquet files, each named by its time and the hash of its bytes."""

import io
import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import polars as pl

from darec.common.files import flush, replacing
from schemas.tables import TableSchema

_NAME = re.compile(r"\d{20}-([0-9a-f]{32})\.parquet")


def parquet_files(folder: Path) -> list[Path]:
    """The files of such a folder, oldest first; none if there is no folder. Raises OSError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def parquet_rows(path: Path, schema: TableSchema) -> pl.DataFrame | None:
    """The rows of one file with the columns of `schema`, or None if its checksum is wrong.

    Missing columns are null. Rows with nulls that the schema does not allow are left out.
    """
    try:
        rows = _sound(path)
    except FileNotFoundError:  # merged into another file by a run of version 0.1
        return pl.DataFrame(schema=schema)

    if rows is None:
        return None
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in rows.columns]
    typed = [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    return rows.with_columns(lacking).select(typed).drop_nulls(schema.required)


def holds(path: Path, column: str, values: Sequence[str | bytes]) -> bool:
    """Whether a file has one of `values` in `column`; also True for a damaged file."""
    rows = _sound(path)
    return rows is None or _among(rows[column], values).any()


def purge(path: Path, column: str, values: Sequence[str | bytes]) -> None:
    """Replaces a file by one without the rows that have one of `values` in `column`. A damaged file is deleted."""
    rows = _sound(path)
    if rows is not None:
        content = io.BytesIO()
        rows.filter(~_among(rows[column], values)).write_parquet(content, compression="zstd")
        digest = blake2b(content.getvalue(), digest_size=16).hexdigest()
        with replacing(path.with_name(f"{path.stem.split('-')[0]}-{digest}.parquet"), durable=True) as draft:
            draft.write_bytes(content.getvalue())

    path.unlink()
    flush(path.parent)


def _among(cells: pl.Series, values: Sequence[str | bytes]) -> pl.Series:
    return cells.is_in(pl.Series(values, dtype=cells.dtype).implode()).fill_null(False)


def _sound(path: Path) -> pl.DataFrame | None:
    """All rows and columns of a file, or None if its checksum is wrong."""
    content = path.read_bytes()
    if blake2b(content, digest_size=16).hexdigest() != path.stem.split("-")[-1]:
        return None
    return pl.read_parquet(io.BytesIO(content))
