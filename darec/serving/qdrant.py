"""A release in Qdrant: two collections per version, and two aliases that are moved in one request."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from darec.common.errors import DarecError, TransientError
from darec.common.extras import extra
from darec.serving.bundle import vectors_of
from darec.serving.vectors import AGAIN, NUMBER, SIDES, STORES, Version, pattern, table_name, versions_among
from schemas import columns as c
from schemas.secret import redacted
from schemas.vectors import VectorsConfig

_SECONDS = 300  # timeout of a request, in seconds


@STORES.register("qdrant")
@contextmanager
def connect(config: VectorsConfig, address: str) -> "Iterator[Qdrant]":
    """A client of a server, or of a folder that no other process has open."""
    library = extra("qdrant_client", "vectors")
    httpx = extra("httpx", "vectors")
    refused = (library.http.exceptions.ResponseHandlingException, httpx.HTTPError)
    try:
        if "://" in address:
            options = {"timeout": _SECONDS, "check_compatibility": False}
            client = library.QdrantClient(url=address, api_key=os.environ.get("QDRANT_API_KEY"), **options)
        else:
            client = library.QdrantClient(path=address)
        try:
            yield Qdrant(client, library.models, config.name)
        finally:
            client.close()
    except refused as error:
        raise TransientError(f"Qdrant does not answer: {error}", where=redacted(address), hint=AGAIN) from error
    except library.http.exceptions.UnexpectedResponse as error:
        raise DarecError(f"Qdrant: {error}", where=redacted(address), hint="see QDRANT_API_KEY") from error
    except RuntimeError as error:  # another process has the folder open
        raise TransientError(f"Qdrant: {error}", where=address, hint=AGAIN) from error


class Qdrant:
    """The versions of one name."""

    def __init__(self, client: Any, models: Any, name: str) -> None:
        self._client, self._models, self._name = client, models, name

    def versions(self) -> set[str]:
        """The versions that have a collection."""
        return versions_among((each.name for each in self._client.get_collections().collections), self._name)

    def current(self) -> str | None:
        """The version that the alias of the items refers to."""
        leads = self._aliases().get(f"{self._name}_items", "")
        found = pattern(self._name).fullmatch(leads)
        return found[2] if found else None

    def rows(self, version: str) -> dict[str, int]:
        """The number of users and items of a version."""
        names = {side: self._collection(side, version) for side in SIDES}
        there = {side: self._client.collection_exists(name) for side, name in names.items()}
        return {side: self._client.count(name, exact=True).count if there[side] else 0 for side, name in names.items()}

    def write(self, version: Version) -> None:
        """Creates both collections. A point's id is its number in the release."""
        models = self._models
        vectors = models.VectorParams(size=version.width, distance=models.Distance.DOT)
        for side in SIDES:
            name = self._collection(side, version.name)
            self._client.create_collection(name, vectors_config=vectors)
            for block in version.blocks(side):
                facts = block.drop(c.VECTOR).to_dicts()
                points = models.Batch(ids=block[NUMBER].to_list(), vectors=vectors_of(block).tolist(), payloads=facts)
                self._client.upsert(name, points, wait=True)

    def switch(self, version: str) -> None:
        """Moves both aliases, in one request."""
        models, known, steps = self._models, self._aliases(), []
        for side in SIDES:
            alias = f"{self._name}_{side}"
            if alias in known:
                steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
            made = models.CreateAlias(collection_name=self._collection(side, version), alias_name=alias)
            steps.append(models.CreateAliasOperation(create_alias=made))
        self._client.update_collection_aliases(change_aliases_operations=steps)

    def remove(self, version: str) -> None:
        """Deletes both collections of a version."""
        for side in SIDES:
            self._client.delete_collection(self._collection(side, version))

    def holding(self, user_id: str) -> int:
        """The number of versions that contain the person."""
        counts = (self._client.count(name, count_filter=self._is(user_id), exact=True) for name in self._of_users())
        return sum(found.count for found in counts)

    def forget(self, user_id: str) -> None:
        """Deletes the person's point in all versions; Qdrant's optimizer frees its bytes later."""
        for name in self._of_users():
            self._client.delete(name, self._models.FilterSelector(filter=self._is(user_id)), wait=True)

    def _is(self, user_id: str) -> Any:
        match = self._models.MatchValue(value=user_id)
        return self._models.Filter(must=[self._models.FieldCondition(key=c.USER, match=match)])

    def _of_users(self) -> list[str]:
        names = (self._collection("users", version) for version in sorted(self.versions()))
        return [name for name in names if self._client.collection_exists(name)]

    def _aliases(self) -> dict[str, str]:
        return {each.alias_name: each.collection_name for each in self._client.get_aliases().aliases}

    def _collection(self, side: str, version: str) -> str:
        return table_name(self._name, side, version)
