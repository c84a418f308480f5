"""Rows that version 0.1 kept: a folder of Parquet files, each named by its time and the hash of its bytes."""

import io
import os
import re
from hashlib import blake2b
from pathlib import Path

import polars as pl

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
    """The rows of one file with the columns of `schema`, or None if its bytes are not those that were written.

    A column that the file lacks is null. Rows that are null where the schema forbids it are left out.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # merged into another file by a run of version 0.1
        return pl.DataFrame(schema=schema)
    if blake2b(content, digest_size=16).hexdigest() != path.stem.split("-")[-1]:
        return None
    rows = pl.read_parquet(io.BytesIO(content))
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in rows.columns]
    typed = [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    return rows.with_columns(lacking).select(typed).drop_nulls(schema.required)
