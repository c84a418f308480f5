"""The artifact store: immutable folders, found by key, whole or not there at all.

<root>/artifacts/<stage>/<key>/      files and, written last, manifest.json
<root>/work/<stage>/<key>/           checkpoints of a step under way; kept when it is killed
<root>/ledger/                       finished rows, shared by all keys
<root>/damaged/                      artifacts that failed verification, set aside
<root>/replaced/<id>/<stage>/<key>/  whole ones whose stage, made again, gave other bytes: a release may need them
<root>/leases/                       lock files; the kernel drops a dead holder's lock
"""

import errno
import fcntl
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from darec.artifacts.keys import content_hash, file_sha256
from darec.common.errors import DarecError, UserError
from schemas.manifest import MANIFEST, FileRecord, InputRecord, Manifest

IN_USE = "in-use"
_TICK = 1_000_000  # nanoseconds: what file systems tell apart


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable result of a stage."""

    path: Path

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return self.path.parent.name

    @property
    def key(self) -> str:
        """Its key."""
        return self.path.name

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest. Raises DarecError if it cannot be read."""
        try:
            return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise DarecError(
                "the manifest cannot be read", where=str(self.path), hint="run again: it is made anew"
            ) from error

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {name: record.sha256 for name, record in self.manifest.files.items()}

    def matches(self, record: InputRecord) -> bool:
        """Whether its files are those that the record of an input lists; False if it is not there or cannot be read."""
        try:
            hashes = self.hashes
        except DarecError:
            return False
        return hashes.keys() >= set(record.files) and content_hash(hashes, record.files) == record.content

    def damage(self, checksums: bool = False) -> str | None:
        """What is wrong with the files (missing, wrong size and, on demand, wrong bytes), or None."""
        try:
            records = self.manifest.files
        except DarecError as error:
            return error.what
        for name, record in records.items():
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != record.bytes:
                return f"{name} has {size} bytes, its manifest says {record.bytes}"
            if checksums and file_sha256(path) != record.sha256:
                return f"{name} does not have the checksum in its manifest"
        return None


class Store:
    """Finds, writes, leases and collects artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def ledger(self) -> Path:
        """The folder of the row ledgers."""
        return self.root / "ledger"

    def work(self, stage: str, key: str) -> Path:
        """The scratch folder of a step (there once the step has begun); it outlives a killed run."""
        return self.root / "work" / stage / key

    def artifact(self, stage: str, key: str) -> Artifact:
        """The artifact of that stage and key, there or not."""
        return Artifact(self.root / "artifacts" / stage / key)

    def input(self, stage: str, record: InputRecord) -> Artifact:
        """The artifact that a manifest's record of an input means: at its key, or set aside since it was replaced.

        The one at the key, there or not, if none has the recorded content any more.
        """
        at_key = self.artifact(stage, record.key)
        if not record.files or at_key.matches(record):
            return at_key
        aside = (Artifact(path) for path in sorted((self.root / "replaced").glob(f"*/{stage}/{record.key}")))
        return next((artifact for artifact in aside if artifact.matches(record)), at_key)

    def find(self, stage: str, key: str, checksums: bool = False) -> Artifact | None:
        """The artifact if it is there and whole; a damaged one stays where it is until it is made anew."""
        artifact = self.artifact(stage, key)
        return artifact if artifact.path.is_dir() and artifact.damage(checksums) is None else None

    def artifacts(self, stage: str | None = None) -> list[Artifact]:
        """All artifacts (of one stage), newest first."""
        pattern = f"{stage or '*'}/*/{MANIFEST}"
        found = [(path.stat().st_mtime_ns, path.parent) for path in (self.root / "artifacts").glob(pattern)]
        return [Artifact(path) for _, path in sorted(found, reverse=True)]

    def latest(self, stage: str) -> Artifact | None:
        """The newest artifact of a stage whose manifest can be read."""
        for artifact in self.artifacts(stage):
            if artifact.damage() is None:
                return artifact
        return None

    @contextmanager
    def lease(self, name: str, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Holds the named lease; waits while another living process holds it (`mode` as for `flock`)."""
        path = self._make(self.root / "leases") / f"{name}.lock"
        with _explained(path), path.open("w") as stream:
            fcntl.flock(stream, mode)
            yield

    def in_use(self) -> AbstractContextManager[None]:
        """Held by whoever reads and writes artifacts, by any number at once: `collect` keeps out meanwhile."""
        return self.lease(IN_USE, fcntl.LOCK_SH)

    @contextmanager
    def draft(self, stage: str, key: str) -> Iterator[Path]:
        """A temporary folder to fill; removed when the block ends, unless `commit` moved it."""
        self._make(self.work(stage, key))
        path = self.root / "tmp" / f"{stage}-{key}-{_unique()}"
        with _explained(path):
            try:
                yield self._make(path)
            finally:
                shutil.rmtree(path, ignore_errors=True)

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Turns a filled draft into the artifact of `manifest`: flush, manifest last, one rename."""
        artifact = self.artifact(manifest.stage, manifest.key)
        with _explained(artifact.path):
            for path in draft.rglob("*"):
                _flush(path)
            (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            self._stamp(draft / MANIFEST, manifest.stage)
            _flush(draft / MANIFEST)
            _flush(draft)
            self._make(artifact.path.parent)
            self._replace(artifact, draft, manifest)
            _flush(artifact.path.parent)
        shutil.rmtree(self.work(manifest.stage, manifest.key), ignore_errors=True)
        return self.artifact(manifest.stage, manifest.key)  # `artifact` may remember the manifest of the one before

    def _stamp(self, manifest: Path, stage: str) -> None:
        """Dates a manifest after all of its stage, so that the newest is the last made though the clock went back."""
        others = (self.root / "artifacts" / stage).glob(f"*/{MANIFEST}")
        newest = max((path.stat().st_mtime_ns for path in others), default=0)
        stamp = max(time.time_ns(), newest + _TICK)
        os.utime(manifest, ns=(stamp, stamp))

    def _replace(self, artifact: Artifact, draft: Path, manifest: Manifest) -> None:
        """Puts `draft` in the artifact's place; one that is there with the same bytes stays, for its readers' sake."""
        whole = artifact.path.is_dir() and artifact.damage(checksums=True) is None
        if whole and artifact.manifest.files == manifest.files:
            return
        if whole:
            self._move(artifact, self.root / "replaced" / _unique() / artifact.stage / artifact.key)
        elif artifact.path.is_dir():
            self._set_aside(artifact, "damaged")
        draft.rename(artifact.path)

    def remove(self, artifact: Artifact) -> None:
        """Deletes an artifact: renamed out of sight first, so that no reader finds half of it."""
        shutil.rmtree(self._set_aside(artifact, "tmp"))

    def _set_aside(self, artifact: Artifact, room: str) -> Path:
        return self._move(artifact, self.root / room / f"{artifact.stage}-{artifact.key}-{_unique()}")

    def _move(self, artifact: Artifact, target: Path) -> Path:
        self._make(target.parent)
        artifact.path.rename(target)
        return target

    def _make(self, folder: Path) -> Path:
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file under `folder`, by relative name."""
    return {
        str(path.relative_to(folder)): FileRecord(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def code_revision() -> str:
    """The source's git revision, `-dirty` if changed since, or `unknown` outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _unique() -> str:
    return uuid.uuid4().hex[:8]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into errors that say how to fix them."""
    try:
        yield
    except DarecError:
        raise
    except Exception as error:
        if _means(error, errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                "the disk is full", where=str(path), hint="free space (`darec gc`) and run again: nothing is lost"
            ) from error
        if _means(error, errno.EROFS) or isinstance(error, PermissionError):
            raise UserError(
                "the store cannot be written", where=str(path), hint="mount it writable, or set runtime.store"
            ) from error
        raise


def _means(error: Exception, *numbers: int) -> bool:
    """Whether the operating system said one of `numbers`; libraries in Rust and C++ pass on its words only."""
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(os.strerror(number) in str(error) for number in numbers)
