"""A release in Milvus: one collection per version, and one alias of the version in production.

An alias can be moved in one request, but not two of them together. So users and items share a collection, of which they
are the partitions `users` and `items`. Its index is created last, so that a collection without an index is incomplete.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from darec.common.errors import DarecError, TransientError
from darec.common.extras import extra
from darec.serving.vectors import AGAIN, NUMBER, SEEN, SIDES, STORES, Version, pattern, table_name, versions_among
from schemas import columns as c
from schemas.secret import redacted
from schemas.vectors import VectorsConfig

_RELEASE = "release"  # instead of a side, because a collection has both
_KEY = "key"
_PATIENCE = 10  # timeout of the connection, in seconds
_UNCONNECTED = 2  # code of the error if the server cannot be reached
_BUSY = "Open local milvus failed"  # another process has the folder open
_ROWS = 1024  # number of rows per request, which may have 64 MiB
_LONGEST = 65_535  # limit of Milvus for texts, in bytes
_MOST_SEEN = 4096  # limit of Milvus for arrays


@STORES.register("milvus")
@contextmanager
def connect(config: VectorsConfig, address: str) -> "Iterator[Milvus]":
    """A client of a server, or of Milvus Lite in a folder `*.db` that no other process has open."""
    library, grpc = extra("pymilvus", "vectors"), extra("grpc", "vectors")
    embedded = address.endswith(".db")
    if embedded:
        Path(address).absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        token = os.environ.get("MILVUS_TOKEN", "")
        client = library.MilvusClient(address, token=token, timeout=_PATIENCE, dedicated=True)
        try:
            yield Milvus(client, library.DataType, config)
        finally:
            client.close()
            if embedded:  # its server is a thread of this process, and would keep the folder locked
                import_module("milvus_lite.server_manager").server_manager_instance.release_server(address)
    except (library.MilvusException, grpc.RpcError) as error:
        code = error.code() if isinstance(error, grpc.RpcError) else error.code
        message, where = f"Milvus: {redacted(str(error))}", redacted(address)
        unanswered = {_UNCONNECTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        if code in unanswered or _BUSY in message:
            raise TransientError(message, where=where, hint=AGAIN) from error
        raise DarecError(message, where=where, hint="see vectors.address and MILVUS_TOKEN") from error


class Milvus:
    """The versions of one name."""

    def __init__(self, client: Any, types: Any, config: VectorsConfig) -> None:
        self._client, self._types, self._name, self._index_from = client, types, config.name, config.index_from

    def versions(self) -> set[str]:
        """The versions that have a collection."""
        return versions_among(self._client.list_collections(), self._name)

    def current(self) -> str | None:
        """The version that the alias refers to."""
        if self._alias not in self._client.list_aliases()["aliases"]:
            return None
        found = pattern(self._name).fullmatch(self._client.describe_alias(self._alias)["collection_name"])
        return found[2] if found else None

    def rows(self, version: str) -> dict[str, int]:
        """The number of users and items of a version."""
        whole = self._loaded(version)
        return {side: self._count(version, side) if whole else 0 for side in SIDES}

    def write(self, version: Version) -> None:
        """Creates the collection and, after all rows, its index, and loads it."""
        name = self._collection(version.name)
        self._client.create_collection(name, schema=self._schema(version.width))
        for side in SIDES:
            self._client.create_partition(name, side)
            for block in version.blocks(side):
                for rows in _rows(block, side).iter_slices(_ROWS):
                    self._client.insert(name, rows.to_dicts(), partition_name=side)

        kind = "HNSW" if version.rows["items"] >= self._index_from else "FLAT"
        params = self._client.prepare_index_params()
        params.add_index(c.VECTOR, index_type=kind, metric_type="IP")
        self._client.flush(name)
        self._client.create_index(name, params)
        self._client.load_collection(name)

    def switch(self, version: str) -> None:
        """Moves the alias, in one request."""
        known = self._alias in self._client.list_aliases()["aliases"]
        move = self._client.alter_alias if known else self._client.create_alias
        move(self._collection(version), self._alias)

    def remove(self, version: str) -> None:
        """Drops the collection of a version, which must have no alias then."""
        name = self._collection(version)
        if self._client.has_collection(name):
            for alias in self._client.list_aliases(name)["aliases"]:
                self._client.drop_alias(alias)
            self._client.drop_collection(name)

    def holding(self, user_id: str) -> int:
        """The number of versions that contain the person."""
        return sum(self._count(each, "users", _is(user_id)) for each in self.versions() if self._loaded(each))

    def forget(self, user_id: str) -> None:
        """Deletes the person's row in all versions; Milvus frees its bytes when it compacts the collection. Incomplete
        versions, in which rows cannot be found, are removed.
        """
        for version in self.versions():
            if not self._loaded(version):
                self.remove(version)
            elif self._count(version, "users", _is(user_id)):
                name = self._collection(version)
                self._client.delete(name, filter=_is(user_id), partition_name="users")
                self._client.flush(name)
                self._client.compact(name)

    def _schema(self, width: int) -> Any:
        types = self._types
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_KEY, types.VARCHAR, is_primary=True, max_length=32)
        schema.add_field(NUMBER, types.INT64)
        for name in (c.USER, c.ITEM, c.TITLE):
            schema.add_field(name, types.VARCHAR, max_length=_LONGEST, nullable=True)
        schema.add_field(c.TRAIN_COUNT, types.INT64)
        schema.add_field(SEEN, types.ARRAY, element_type=types.INT32, max_capacity=_MOST_SEEN, nullable=True)
        schema.add_field(c.VECTOR, types.FLOAT_VECTOR, dim=width)
        return schema

    def _count(self, version: str, side: str, condition: str = f"{NUMBER} >= 0") -> int:
        # Without a condition, Milvus Lite counts the rows of all partitions.
        options = {"partition_names": [side], "output_fields": ["count(*)"], "consistency_level": "Strong"}
        return self._client.query(self._collection(version), filter=condition, **options)[0]["count(*)"]

    def _loaded(self, version: str) -> bool:
        """Loads the version into memory, unless it is incomplete or missing."""
        name = self._collection(version)
        whole = self._client.has_collection(name) and bool(self._client.list_indexes(name))
        if whole:
            self._client.load_collection(name)
        return whole

    @property
    def _alias(self) -> str:
        return f"{self._name}_{_RELEASE}"

    def _collection(self, version: str) -> str:
        return table_name(self._name, _RELEASE, version)


def _rows(block: pl.DataFrame, side: str) -> pl.DataFrame:
    """The rows with a primary key, which users and items must not share, such as `users 7`."""
    keyed = block.with_columns(pl.format(f"{side} {{}}", NUMBER).alias(_KEY))
    return keyed.with_columns(pl.col(SEEN).list.head(_MOST_SEEN)) if side == "users" else keyed


def _is(user_id: str) -> str:
    return f"{c.USER} == {json.dumps(user_id, ensure_ascii=False)}"
