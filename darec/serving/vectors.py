"""The vectors of a release in a vector store, for services that search in that store.

A release is a version: a table (or collection) of users and one of items, whose names end with the release's id. Fixed
names refer to the version in production, and are switched together when all rows are written. A killed push leaves the
old version in production and an incomplete one, which the next push rewrites. A rollback switches to a kept version.

    <name>_items    number (in the release), item_id, title, train_count, vector
    <name>_users    number, user_id, train_count, seen (numbers of the items that lists exclude), vector

In Milvus, both are in `<name>_release`.

The score of an item for a user is the inner product of their vectors.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import polars as pl

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.progress import Progress, Silent
from darec.common.registry import Registry
from darec.serving.bundle import Bundle
from darec.serving.releases import Releases
from schemas import columns as c
from schemas.release import BundleReport, Release
from schemas.reports import VectorsReport
from schemas.vectors import VectorsConfig

ADDRESS = "DAREC_VECTORS"
"""The environment variable for the address of the store, used if the recipe has none."""
AGAIN = "run `darec push` again; readers still use the previous version"
NUMBER, SEEN = "number", "seen"
_BLOCK = 8192  # number of rows per request


@dataclass(frozen=True)
class Version:
    """The part of a release that is pushed."""

    name: str
    """The suffix of the names of its tables."""
    bundle: Bundle
    progress: Progress

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.bundle.report.width

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows of each side, `users` and `items`, without users who were forgotten."""
        return _rows(self.bundle.report)

    def blocks(self, side: str) -> Iterator[pl.DataFrame]:
        """Yields the rows of a side in order, in blocks."""
        self.progress.start(f"push {side}", self.rows[side], side)
        for table in self._users() if side == "users" else self._items():
            yield table
            self.progress.advance(table.height)

    def _items(self) -> Iterator[pl.DataFrame]:
        for start in range(0, self.bundle.items.height, _BLOCK):
            table = self.bundle.items_between(start, start + _BLOCK).rename({c.ITEM_INDEX: NUMBER})
            yield table.select(pl.col(NUMBER).cast(pl.Int64), c.ITEM, c.TITLE, c.TRAIN_COUNT, c.VECTOR)

    def _users(self) -> Iterator[pl.DataFrame]:
        start = 0
        while (table := self.bundle.users_between(start, start + _BLOCK)).height:
            pairs = self.bundle.seen_between(start, start + _BLOCK)
            seen = pairs.group_by(c.USER_INDEX).agg(pl.col(c.ITEM_INDEX).cast(pl.Int32).sort().alias(SEEN))
            known = table.drop_nulls(c.USER).with_columns(pl.col(c.USER_INDEX).cast(pl.Int64))
            joined = known.join(
                seen.cast({c.USER_INDEX: pl.Int64}), on=c.USER_INDEX, how="left", maintain_order="left"
            ).with_columns(pl.col(SEEN).fill_null([]))
            yield joined.rename({c.USER_INDEX: NUMBER}).select(NUMBER, c.USER, c.TRAIN_COUNT, SEEN, c.VECTOR)
            start += _BLOCK


class VectorStore(Protocol):
    """The interface of vector stores. Every method may raise TransientError if the store does not answer."""

    def versions(self) -> set[str]:
        """The names of all versions, including incomplete ones."""
        ...

    def current(self) -> str | None:
        """The version for readers."""
        ...

    def rows(self, version: str) -> dict[str, int]:
        """The number of users and items of a version, 0 if there is no table."""
        ...

    def write(self, version: Version) -> None:
        """Writes a new version, which is not visible to readers yet."""
        ...

    def switch(self, version: str) -> None:
        """Switches readers to this version, for users and items together."""
        ...

    def remove(self, version: str) -> None:
        """Removes a version that is not in production."""
        ...

    def holding(self, user_id: str) -> int:
        """The number of versions that contain a person."""
        ...

    def forget(self, user_id: str) -> None:
        """Removes a person from all versions, and from old copies of their files as far as the store allows."""
        ...


SIDES = ("users", "items")
"""The two tables, collections or partitions of a version."""

Opened = AbstractContextManager[VectorStore]
STORES: Registry[Opened] = Registry("vector store")
_MODULES = {"pgvector": "pgvector", "qdrant": "qdrant", "lancedb": "lance", "milvus": "milvus"}


def open_store(config: VectorsConfig) -> Opened:
    """The store that the recipe names. Raises UserError if its library is missing or it has no address."""
    import_module(f"darec.serving.{_MODULES[config.store]}")
    address = config.address or os.environ.get(ADDRESS)
    if not address:
        hint = f"set vectors.address, or the environment variable {ADDRESS} if it holds a password"
        raise UserError("the vector store has no address", where="vectors.address", hint=hint)
    return STORES.make(config.store, config, address)


def follow(root: Path, config: VectorsConfig, progress: Progress | None = None) -> VectorsReport:
    """Makes the vector store serve the release in production, and removes versions that are too old.

    The caller must hold the lease `vectors` of the store at `root`, so that a push and a rollback do not interfere.
    """
    release = Releases(root).current()
    if release is None:
        return VectorsReport(state="skipped", reason="no release is in production")

    version = _version(root, release, progress)

    with open_store(config) as store:
        missing = store.rows(version.name) != version.rows
        there = not missing and store.current() == version.name
        if missing:
            if store.current() == version.name and (whole := _whole(root, store, version.name)):
                store.switch(whole)  # rows were lost: readers use another version until this one is written again
            store.remove(version.name)  # leftovers of a killed push
            store.write(version)
        if not there:
            store.switch(version.name)
        old = _others(root, store, version.name)[config.keep :]
        for name in old:
            store.remove(name)

    if there:
        return _report(version, release, "cached", f"{release.id} is served already", old)
    state, done = ("pushed", "pushed") if missing else ("switched", "switched to")
    return _report(version, release, state, f"{release.id} was {done}", old)


def _others(root: Path, store: VectorStore, version: str) -> list[str]:
    """All other versions, that of the newest release first and those without a record last. Names tell times, which are
    not in order after a clock was set back.
    """
    places = {_name(release): place for place, release in enumerate(Releases(root).all())}
    by_name = sorted(store.versions() - {version}, reverse=True)
    return sorted(by_name, key=lambda name: places.get(name, len(places)))


def _whole(root: Path, store: VectorStore, version: str) -> str | None:
    """The newest other version with all of its rows."""
    rows = {_name(release): _rows(release.report) for release in Releases(root).all()}
    return next((name for name in _others(root, store, version) if store.rows(name) == rows.get(name)), None)


def served(root: Path, config: VectorsConfig) -> VectorsReport | None:
    """The release in production, if the vector store serves it completely; else None."""
    release = Releases(root).current()
    if release is None:
        return None
    version = _version(root, release)
    with open_store(config) as store:
        if store.current() != version.name or store.rows(version.name) != version.rows:
            return None
    return _report(version, release, "pushed", f"{config.store} serves {release.id}")


def follow_by_hand(store: Store, config: VectorsConfig | None, progress: Progress | None = None) -> str | None:
    """Calls `follow` after a rollback or a promotion if the recipe has a vector store. Returns a message."""
    if config is None:
        return None
    with store.in_use(), store.lease("vectors"):
        return follow(store.root, config, progress).reason


def _report(version: Version, release: Release, state: str, reason: str, removed: Sequence[str] = ()) -> VectorsReport:
    users, items = version.rows["users"], version.rows["items"]
    return VectorsReport(
        state=state, reason=reason, release=release.id, users=users, items=items, removed=tuple(removed)
    )


def _version(root: Path, release: Release, progress: Progress | None = None) -> Version:
    bundle = Bundle.open(Releases(root).folder(release))
    return Version(_name(release), bundle, progress or Silent())


def _name(release: Release) -> str:
    return re.sub(r"\W", "_", release.id).lower()


def _rows(report: BundleReport) -> dict[str, int]:
    return {"users": report.users.rows, "items": report.items.rows}


def table_name(name: str, side: str, version: str) -> str:
    """The name of the table or collection of one side of a version, or of both, which `pattern` matches."""
    return f"{name}_{side}_{version}"


def pattern(name: str) -> re.Pattern[str]:
    """Matches only the names of darec's tables: side, or `release` for both, and version."""
    return re.compile(rf"{re.escape(name)}_(users|items|release)_(\d{{4}}_\d\d_\d\dt\d{{4}}z_\w+)")


def versions_among(names: Iterable[str], name: str) -> set[str]:
    """The versions that have a table."""
    return {found[2] for each in names if (found := pattern(name).fullmatch(each))}
