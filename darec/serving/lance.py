"""A release in LanceDB: two tables per version, and a table with one row for the version in production.

LanceDB has no aliases: readers read the version from the column `version` of `<name>_current`, which is replaced
atomically.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa

from darec.common.errors import DarecError
from darec.common.extras import extra
from darec.serving.vectors import SIDES, STORES, Version, table_name, versions_among
from schemas import columns as c
from schemas.secret import redacted
from schemas.vectors import VectorsConfig

_VERSION = "version"


@STORES.register("lancedb")
@contextmanager
def connect(config: VectorsConfig, address: str) -> "Iterator[Lance]":
    """A database in a folder or an object store."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every table that is new
    library = extra("lancedb", "vectors")
    try:
        yield Lance(library.connect(address), config)
    except (OSError, RuntimeError, ValueError) as error:
        raise DarecError(f"LanceDB: {str(error).splitlines()[0]}", where=redacted(address)) from error


class Lance:
    """The versions of one name."""

    def __init__(self, connection: Any, config: VectorsConfig) -> None:
        self._db, self._name, self._index_from = connection, config.name, config.index_from

    def versions(self) -> set[str]:
        """The versions that have a table."""
        return versions_among(self._tables(), self._name)

    def current(self) -> str | None:
        """The version in `<name>_current`."""
        if self._pointer not in self._tables():
            return None
        return self._db.open_table(self._pointer).to_arrow()[_VERSION][0].as_py()

    def rows(self, version: str) -> dict[str, int]:
        """The number of users and items of a version."""
        tables = {side: self._opened(self._table(side, version)) for side in SIDES}
        return {side: table.count_rows() if table else 0 for side, table in tables.items()}

    def write(self, version: Version) -> None:
        """Writes both tables; each becomes visible when it is complete."""
        for side in SIDES:
            blocks = (batch for block in version.blocks(side) for batch in _arrow(block).to_batches())
            first = next(blocks)
            batches = pa.RecordBatchReader.from_batches(first.schema, chain([first], blocks))
            table = self._db.create_table(self._table(side, version.name), batches)
            if side == "items" and version.rows[side] >= self._index_from:
                table.create_index(metric="dot", index_type="IVF_FLAT", vector_column_name=c.VECTOR)

    def switch(self, version: str) -> None:
        """Replaces the row for readers, if it has another version."""
        if self.current() != version:
            row = {_VERSION: [version], **{side: [self._table(side, version)] for side in SIDES}}
            self._db.create_table(self._pointer, pa.table(row), mode="overwrite")

    def remove(self, version: str) -> None:
        """Drops both tables of a version."""
        for name in {self._table(side, version) for side in SIDES} & set(self._tables()):
            self._db.drop_table(name)

    def holding(self, user_id: str) -> int:
        """The number of versions that contain the person."""
        tables = [self._opened(name) for name in self._of_users()]
        return sum(table.count_rows(_is(user_id)) for table in tables if table)

    def forget(self, user_id: str) -> None:
        """Rewrites the users of all versions without the person, and deletes their old files.

        Incomplete tables, in which rows cannot be found, are dropped.
        """
        for name in self._of_users():
            table = self._opened(name)
            if table is None:
                self._db.drop_table(name)
                continue
            if table.count_rows(_is(user_id)):
                left = table.search().where(f"NOT ({_is(user_id)})").to_batches()
                table = self._db.create_table(name, left, mode="overwrite")
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # readers of an old version will fail
                table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    @property
    def _pointer(self) -> str:
        return f"{self._name}_current"

    def _opened(self, name: str) -> Any:
        """The table, or None if it is missing, or if a killed push has left its folder without a table."""
        try:
            return self._db.open_table(name)
        except ValueError:
            return None

    def _of_users(self) -> list[str]:
        known = set(self._tables())
        return sorted(known & {self._table("users", version) for version in self.versions()})

    def _tables(self) -> list[str]:
        names, page = [], None
        while True:
            found = self._db.list_tables(page_token=page)
            names += found.tables
            if not (page := found.page_token):
                return names

    def _table(self, side: str, version: str) -> str:
        return table_name(self._name, side, version)


def _is(user_id: str) -> str:
    quoted = user_id.replace("'", "''")
    return f"{c.USER} = '{quoted}'"


def _arrow(block: pl.DataFrame) -> pa.Table:
    return block.to_arrow(compat_level=pl.CompatLevel.oldest())
