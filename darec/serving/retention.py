"""Which parts of a store may go, and removing them: what `darec gc` does.

Kept, always: the current release, the one `rollback` goes to, the newest `releases` others that were not refused, the
newest `artifacts` of every stage, and whatever any of these was made from, however far back. Row ledgers are never
touched: a profile is data of record. Nothing is removed while a run is under way, nor while the manifest of anything
behind a kept release cannot be read.
"""

import fcntl
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darec.artifacts.store import IN_USE, Artifact, Store
from darec.common.errors import DarecError, TransientError
from darec.serving.releases import LEASE, Releases
from schemas.manifest import MANIFEST

_WORK_DAYS = 7  # checkpoints of a killed run, and folders set aside, are of use that long
_DAY = 86_400


@dataclass(frozen=True)
class Removal:
    """Something that is gone, or would go."""

    kind: Literal["artifact", "work", "draft", "damaged", "replaced"]
    path: Path
    bytes: int


@dataclass(frozen=True)
class Collection:
    """What one `gc` did."""

    removed: tuple[Removal, ...]
    kept: int
    """Artifacts that stay."""

    @property
    def bytes(self) -> int:
        """How much was, or would be, freed."""
        return sum(removal.bytes for removal in self.removed)


def collect(
    store: Store, releases: int, artifacts: int, *, dry_run: bool = False, now: float | None = None
) -> Collection:
    """Removes what retention lets go; with `dry_run` only says what that would be.

    Raises:
        TransientError: a run is under way.
        DarecError: `current` has no record, or a manifest behind a kept release cannot be read, so that nobody can say
            what must stay.
    """
    with store.in_use() if dry_run else _alone(store), store.lease(LEASE):
        released = closure(store, Releases(store.root).referenced(releases), tolerant=False)
        kept = released | closure(store, newest(store, artifacts))
        removed = tuple(_removable(store, kept, time.time() if now is None else now))
        if not dry_run:
            for removal in removed:
                _remove(store, removal)
        return Collection(removed, len(kept))


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    try:
        with store.lease(IN_USE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        what = "a run is under way: nothing may be removed beside it"
        raise TransientError(what, where=str(store.root), hint="try again when it is over") from error


def newest(store: Store, count: int) -> Iterator[Artifact]:
    """The newest `count` artifacts of every stage."""
    seen: dict[str, int] = {}
    for artifact in store.artifacts():
        seen[artifact.stage] = seen.get(artifact.stage, 0) + 1
        if seen[artifact.stage] <= count:
            yield artifact


def closure(store: Store, roots: Iterable[Artifact], *, tolerant: bool = True) -> set[Artifact]:
    """`roots` and everything that they were made from, as far as it is there.

    Raises:
        DarecError: a manifest cannot be read; unless `tolerant`, which takes it for an artifact made from nothing.
    """
    kept: set[Artifact] = set()
    todo = list(roots)
    while todo:
        artifact = todo.pop()
        if artifact in kept or not artifact.path.is_dir():
            continue
        kept.add(artifact)
        todo += _inputs(store, artifact, tolerant)
    return kept


def _inputs(store: Store, artifact: Artifact, tolerant: bool) -> list[Artifact]:
    try:
        inputs = artifact.manifest.inputs
    except DarecError as error:
        if tolerant:  # damaged: it is made anew when it is next asked for, and has no lineage to tell
            return []
        what = "a release needs this artifact, but its manifest cannot be read, nor what else the release needs"
        hint = "restore the manifest, or delete the artifact's folder to do without it and what it was made from"
        raise DarecError(what, where=str(artifact.path / MANIFEST), hint=hint) from error
    return [store.input(stage, record) for stage, record in inputs.items()]


def _removable(store: Store, kept: set[Artifact], now: float) -> Iterator[Removal]:
    for path in sorted((store.root / "artifacts").glob("*/*")):
        if Artifact(path) not in kept:
            yield Removal("artifact", path, _size(path))
    for path in sorted((store.root / "tmp").glob("*")):  # nobody is at work, so whoever filled it is dead
        yield Removal("draft", path, _size(path))
    for path in _old((store.root / "work").glob("*/*"), now):
        yield Removal("work", path, _size(path))
    for path in _old((store.root / "damaged").glob("*"), now):
        yield Removal("damaged", path, _size(path))
    needed = {artifact.path.parents[1] for artifact in kept}
    for path in _old((store.root / "replaced").glob("*"), now):
        if path not in needed:
            yield Removal("replaced", path, _size(path))


def _old(paths: Iterable[Path], now: float) -> Iterator[Path]:
    """Those to which nothing was done for a week: neither written nor moved here."""
    for path in sorted(paths):
        if max(inner.lstat().st_ctime for inner in [path, *path.rglob("*")]) < now - _WORK_DAYS * _DAY:
            yield path


def _remove(store: Store, removal: Removal) -> None:
    if removal.kind == "artifact":
        store.remove(Artifact(removal.path))
    else:
        shutil.rmtree(removal.path)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
