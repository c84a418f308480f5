"""A release in PostgreSQL with the extension vector: two tables per version, and two views of the version in
production.

A version is written in one transaction, and the views are switched in another, so that a killed push leaves no traces.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl

from darec.common.errors import DarecError, TransientError
from darec.common.extras import extra
from darec.serving.vectors import AGAIN, SEEN, STORES, Version, table_name, versions_among
from schemas import columns as c
from schemas.secret import redacted
from schemas.vectors import VectorsConfig

_COLUMNS = {
    "items": "number bigint PRIMARY KEY, item_id text NOT NULL UNIQUE, title text NOT NULL, "
    "train_count integer NOT NULL",
    "users": "number bigint PRIMARY KEY, user_id text NOT NULL UNIQUE, train_count integer NOT NULL, "
    "seen integer[] NOT NULL",
}
_MOST_INDEXED = 2000  # maximum width of vectors in pgvector's HNSW index


@STORES.register("pgvector")
@contextmanager
def connect(config: VectorsConfig, address: str) -> "Iterator[PostgreSQL]":
    """A connection, which is closed at the end of the block."""
    psycopg = extra("psycopg", "vectors")
    try:
        with psycopg.connect(address, autocommit=True, connect_timeout=30) as connection:
            yield PostgreSQL(connection, config)
    except psycopg.OperationalError as error:
        raise TransientError(f"PostgreSQL: {error}", where=redacted(address), hint=AGAIN) from error
    except psycopg.Error as error:
        hint = "the user needs CREATE on the schema, and the extension: CREATE EXTENSION vector"
        raise DarecError(f"PostgreSQL: {error}", where=redacted(address), hint=hint) from error


class PostgreSQL:
    """The versions in the first schema of the search path. Names consist of letters, digits and _, so they need no
    quotes.
    """

    def __init__(self, connection: Any, config: VectorsConfig) -> None:
        self._db, self._name, self._index_from = connection, config.name, config.index_from

    def versions(self) -> set[str]:
        """The versions that have a table."""
        found = self._db.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return versions_among((name for (name,) in found), self._name)

    def current(self) -> str | None:
        """The version of the views, which is in the comment of one of them."""
        query = "SELECT obj_description(to_regclass(%s), 'pg_class')"
        return self._db.execute(query, [f"{self._name}_items"]).fetchone()[0]

    def rows(self, version: str) -> dict[str, int]:
        """The number of users and items of a version."""
        if version not in self.versions():
            return dict.fromkeys(_COLUMNS, 0)
        return {side: self._count(f"SELECT count(*) FROM {self._table(side, version)}") for side in _COLUMNS}

    def write(self, version: Version) -> None:
        """Writes both tables, and for many items an index, in one transaction."""
        with self._db.transaction():
            self._db.execute("CREATE EXTENSION IF NOT EXISTS vector")
            for side, columns in _COLUMNS.items():
                table = self._table(side, version.name)
                self._db.execute(f"CREATE TABLE {table} ({columns}, vector vector({version.width}) NOT NULL)")
                with self._db.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy:
                    for block in version.blocks(side):
                        copy.write(_csv(block))
            if version.rows["items"] >= self._index_from and version.width <= _MOST_INDEXED:
                table = self._table("items", version.name)
                self._db.execute(f"CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)")

    def switch(self, version: str) -> None:
        """Switches both views to the version, in one transaction. Privileges on them are kept."""
        psycopg = extra("psycopg", "vectors")
        with self._db.transaction():
            for side in _COLUMNS:
                view = f"{self._name}_{side}"
                query = f"VIEW {view} AS SELECT * FROM {self._table(side, version)}"
                try:
                    with self._db.transaction():
                        self._db.execute(f"CREATE OR REPLACE {query}")
                except psycopg.errors.InvalidTableDefinition:  # the width of the vectors has changed
                    self._db.execute(f"DROP VIEW {view}")
                    self._db.execute(f"CREATE {query}")
                self._db.execute(f"COMMENT ON VIEW {view} IS '{version}'")

    def remove(self, version: str) -> None:
        """Drops the tables of a version, and views of them."""
        with self._db.transaction():
            for side in _COLUMNS:
                self._db.execute(f"DROP TABLE IF EXISTS {self._table(side, version)} CASCADE")

    def holding(self, user_id: str) -> int:
        """The number of versions that contain the person."""
        counts = "SELECT count(*) FROM {} WHERE user_id = %s"
        return sum(self._count(counts.format(table), user_id) for table in self._user_tables())

    def forget(self, user_id: str) -> None:
        """Deletes the person from all versions and rewrites the tables, so that their files do not contain the row."""
        for table in self._user_tables():
            self._db.execute(f"DELETE FROM {table} WHERE user_id = %s", [user_id])
            self._db.execute(f"VACUUM FULL {table}")

    def _user_tables(self) -> list[str]:
        return [self._table("users", version) for version in sorted(self.versions())]

    def _table(self, side: str, version: str) -> str:
        return table_name(self._name, side, version)

    def _count(self, query: str, *values: str) -> int:
        return self._db.execute(query, values).fetchone()[0]


def _csv(block: pl.DataFrame) -> bytes:
    """Rows for COPY; lists are written as text in the format of `integer[]` and `vector`."""
    texts = []
    for name, brackets in ((c.VECTOR, "[]"), (SEEN, "{}")):
        if name in block.columns:
            numbers = pl.col(name).cast(pl.List(pl.String)).list.join(",")
            texts.append(pl.concat_str(pl.lit(brackets[0]), numbers, pl.lit(brackets[1])).alias(name))
    return block.with_columns(texts).write_csv(include_header=False, quote_style="necessary").encode()
