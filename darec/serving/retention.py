"""Retention, `darec gc`: which artifacts of a store are removed.

Always kept are the current release, the target of `rollback`, the newest `releases` others that were not refused, the
newest `artifacts` of every stage, the complete lineage of all of these, and the artifacts that the gate's floor
compares (`gate.best_of_nights`): the bundles, and the evaluated vectors of refitted ones. Row ledgers are never
changed, because profiles are expensive to compute again. A copy of a remote source is removed if no kept artifact was
made from it and no run has used it for a week. Nothing is removed while a run is active. If a manifest in the
lineage of a kept release cannot be read, the inputs of that release are unknown: then no artifact is removed, and the
log names the file. Only artifacts are removed from `artifacts/`, and no other files.
"""

import fcntl
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darec.artifacts.store import IN_USE, Artifact, Store
from darec.common.errors import DarecError, TransientError
from darec.common.warnings import warn_once
from darec.serving.releases import LEASE, Releases
from schemas.copies import COPIES, COPY, COPY_FOLDERS
from schemas.manifest import MANIFEST

_WORK_DAYS = 7  # checkpoints of killed runs and folders set aside are kept for this time
_DAY = 86_400


@dataclass(frozen=True)
class Removal:
    """An artifact or file that was removed, or would be."""

    kind: Literal["artifact", "work", "draft", "damaged", "replaced", "copy"]
    path: Path
    bytes: int


@dataclass(frozen=True)
class Collection:
    """The result of one `gc`."""

    removed: tuple[Removal, ...]
    kept: int
    """Number of kept artifacts."""

    @property
    def bytes(self) -> int:
        """Number of bytes that were, or would be, freed."""
        return sum(removal.bytes for removal in self.removed)


def collect(
    store: Store, releases: int, artifacts: int, *, dry_run: bool = False, now: float | None = None
) -> Collection:
    """Removes artifacts that are not kept. With `dry_run` nothing is removed.

    Artifacts that cannot be removed are kept, and the reason is logged.

    Raises:
        TransientError: a run is active.
    """
    with store.in_use() if dry_run else alone(store), store.lease(LEASE):
        unreadable: list[Artifact] = []
        released = closure(store, Releases(store.root).referenced(releases), unreadable)
        kept = released | closure(store, newest(store, artifacts))
        kept |= {artifact for artifact in Releases(store.root).compared() if artifact.path.is_dir()}

        if unreadable:
            kept |= set(store.artifacts())
            where = ", ".join(str(artifact.path / MANIFEST) for artifact in unreadable)
            warn_once(
                f"no artifact is removed: a release needs one whose manifest cannot be read [{where}] -> restore the "
                "manifest, or delete the artifact's folder to do without it and what it was made from"
            )

        removable = _removable(store, kept, bool(unreadable), time.time() if now is None else now)
        removed = tuple(removal for removal in removable if dry_run or _remove(store, removal))
        if store.shared is not None and not dry_run:
            store.shared.sweep(LEASE)
        return Collection(removed, len(kept))


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Excludes runs. Raises TransientError if one is active."""
    try:
        with store.lease(IN_USE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        what = "a run is active, and nothing can be removed during a run"
        raise TransientError(what, where=str(store.root), hint="try again when it has ended") from error


def newest(store: Store, count: int) -> Iterator[Artifact]:
    """The newest `count` artifacts of every stage."""
    seen: dict[str, int] = {}
    for artifact in store.artifacts():
        seen[artifact.stage] = seen.get(artifact.stage, 0) + 1
        if seen[artifact.stage] <= count:
            yield artifact


def closure(store: Store, roots: Iterable[Artifact], unreadable: list[Artifact] | None = None) -> set[Artifact]:
    """`roots` and their lineage, as far as it exists.

    An artifact with an unreadable manifest is treated as one without inputs, and added to `unreadable`.
    """
    kept: set[Artifact] = set()
    todo = list(roots)
    while todo:
        artifact = todo.pop()
        if artifact in kept or not artifact.path.is_dir():
            continue
        kept.add(artifact)
        try:
            todo += [store.input(stage, record) for stage, record in artifact.manifest.inputs.items()]
        except DarecError:
            if unreadable is not None:
                unreadable.append(artifact)
    return kept


def _removable(store: Store, kept: set[Artifact], uncertain: bool, now: float) -> Iterator[Removal]:
    """The objects that may be removed. If the lineage of a release is `uncertain`, nothing that was
    once an artifact.
    """
    for artifact in sorted(store.artifacts(), key=lambda artifact: artifact.path):
        if artifact not in kept:
            yield Removal("artifact", artifact.path, _size(artifact.path) if store.shared is None else _total(artifact))
    for path in sorted((store.root / "tmp").glob("*")):  # no run is active, so its process is dead
        yield Removal("draft", path, _size(path))
    for path in _old((store.root / "work").glob("*/*"), now):
        yield Removal("work", path, _size(path))
    if uncertain:
        return
    used = {name for artifact in kept for name in _copies_read(artifact)}
    for path in _old((store.root / COPIES).glob(COPY_FOLDERS), now):  # a download that never ended has no record
        if path.name not in used:
            yield Removal("copy", path, _size(path))
    for path in _old((store.root / "damaged").glob("*"), now):
        yield Removal("damaged", path, _size(path))
    needed = {artifact.path.parents[1] for artifact in kept}
    for path in _old((store.root / "replaced").glob("*"), now):
        if path not in needed:
            yield Removal("replaced", path, _size(path))


def _copies_read(artifact: Artifact) -> tuple[str, ...]:
    """The folders of the copies of remote sources that an artifact was made from."""
    try:
        return tuple(artifact.manifest.report.get("copies", ()))
    except DarecError:
        return ()


def _old(paths: Iterable[Path], now: float) -> Iterator[Path]:
    """Those that were neither written nor moved here within the last week."""
    for path in sorted(paths):
        try:
            changed = max(inner.lstat().st_ctime for inner in [path, *path.rglob("*")])
        except OSError as error:
            warn_once(f"ignored, because it cannot be read ({error.strerror}): {path}")
            continue
        if changed < now - _WORK_DAYS * _DAY:
            yield path


def _remove(store: Store, removal: Removal) -> bool:
    """Whether it was removed."""
    try:
        if removal.kind == "artifact":
            store.remove(Artifact(removal.path))
        elif removal.kind == "replaced" and store.shared is not None:
            for manifest in sorted(removal.path.glob(f"*/*/{MANIFEST}")):
                store.remove(Artifact(manifest.parent))
            shutil.rmtree(removal.path)
        elif removal.path.is_dir() and not removal.path.is_symlink():
            (removal.path / COPY).unlink(missing_ok=True)  # a copy without its record is none
            shutil.rmtree(removal.path)
        else:
            removal.path.unlink()
    except (OSError, DarecError) as error:
        warn_once(f"could not be removed ({error}): {removal.path}")
        return False
    return True


def _total(artifact: Artifact) -> int:
    """The size in bytes of an artifact's files, on this machine or in a shared store."""
    try:
        return sum(record.bytes for record in artifact.manifest.files.values())
    except DarecError:
        return 0


def _size(path: Path) -> int:
    """The size in bytes of a file, or of all readable files in a folder."""
    total = 0
    for inner in [path, *path.rglob("*")]:
        try:
            found = inner.lstat()
        except OSError:
            continue
        total += 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return total
