"""The artifact store: immutable folders by key, which are either complete or absent.

    <root>/artifacts/<stage>/<key>/      files and, written last, manifest.json
    <root>/work/<stage>/<key>/           checkpoints of an active step; kept if it is killed
    <root>/ledger/                       row ledgers, shared by all keys
    <root>/damaged/                      artifacts that failed verification, set aside
    <root>/replaced/<id>/<stage>/<key>/  intact artifacts that a rerun replaced by other bytes; a release may need them
    <root>/leases/                       lock files; the kernel releases the lock of a dead process

Only real folders with a manifest are artifacts. Anything else under `artifacts/` (files, symbolic links, folders of
other programs) is logged once and ignored.

Several machines can share a store in an object store. Then the root is this machine's cache of it, with the same
layout, and files of artifacts are downloaded on first use (`darec.artifacts.shared`).

The store is private: a new root folder has mode 0700. To share it, change the mode of the root (`chmod 2750`); files
that are written later never have more permissions than the root.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from darec.artifacts.keys import content_hash
from darec.artifacts.leases import Patience
from darec.artifacts.shared import Shared, cache_of, shared_store
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.files import NotAFileError, flush, read_bytes
from darec.common.hashing import file_sha256
from darec.common.objects import is_url
from darec.common.warnings import warn_once
from schemas.manifest import MANIFEST, FileRecord, InputRecord, Manifest

RECEIPTS = "receipts"
"""The folder of the receipts of `darec forget`."""
IN_USE = "in-use"
_PAUSE = 0.05  # interval between two attempts to lock a file, in seconds
_TICK = 1_000_000  # nanoseconds: the resolution of file systems


@dataclass(frozen=True)
class Artifact:
    """A finished, immutable result of a stage."""

    path: Path

    @property
    def stage(self) -> str:
        """The stage that produced it."""
        return self.path.parent.name

    @property
    def key(self) -> str:
        """Its key."""
        return self.path.name

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            TransientError: it exists and cannot be read (permissions, an I/O error).
            DarecError: it does not exist, or is not a manifest.
        """
        try:
            return Manifest.model_validate_json(read_bytes(self.path / MANIFEST))
        except (*_ABSENT, NotAFileError, ValidationError) as error:
            raise DarecError(
                "the manifest cannot be read", where=str(self.path), hint="run again: it is rebuilt"
            ) from error
        except OSError as error:
            raise _unreadable(self.path / MANIFEST, error) from error

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {name: record.sha256 for name, record in self.manifest.files.items()}

    @property
    def shared(self) -> Shared | None:
        """The shared store, if several machines share the store."""
        roots = self.path.parents[2:4]  # of a replaced artifact, the latter
        return next((shared for root in roots if (shared := shared_store(root))), None)

    def file(self, name: str) -> Path:
        """The path of one of its files, which is downloaded if only the object store has it."""
        if not (self.path / name).exists():
            self.fetch([name])
        return self.path / name

    def fetch(self, names: Iterable[str] | None = None) -> None:
        """Downloads some or all of its files that this machine does not have.

        Raises:
            DarecError: a file in the object store is damaged.
            TransientError: the object store does not answer.
        """
        if (shared := self.shared) is not None:
            wanted = self.manifest.files if names is None else self.manifest.files.keys() & set(names)
            shared.download(self.path, [name for name in wanted if not (self.path / name).exists()], self.manifest)

    def matches(self, record: InputRecord) -> bool:
        """Whether its files have the checksums in the record of an input; False if it is missing or unreadable."""
        try:
            hashes = self.hashes
        except DarecError:
            return False
        return hashes.keys() >= set(record.files) and content_hash(hashes, record.files) == record.content

    def damage(self, checksums: bool = False) -> str | None:
        """A description of missing files, wrong sizes and, on demand, wrong checksums; None if it is intact.

        Raises:
            TransientError: a file exists and cannot be read, so its state is unknown.
        """
        try:
            records = self.manifest.files
        except TransientError:
            raise
        except DarecError as error:
            return error.what

        if (shared := self.shared) is not None:
            return self._damage_of_copy(shared, checksums)
        return self._damage_of_files(records, checksums)

    def _damage_of_files(self, records: Mapping[str, FileRecord], checksums: bool) -> str | None:
        for name, record in records.items():
            path = self.path / name
            try:
                found = path.stat()
                if not stat.S_ISREG(found.st_mode):
                    return f"{name} is not a file"
                if found.st_size != record.bytes:
                    return f"{name} has {found.st_size} bytes, its manifest says {record.bytes}"
                if checksums and file_sha256(path) != record.sha256:
                    return f"{name} does not have the checksum in its manifest"
            except _ABSENT:
                return f"{name} is missing"
            except OSError as error:
                raise _unreadable(path, error) from error
        return None

    def _damage_of_copy(self, shared: Shared, checksums: bool) -> str | None:
        """Like `damage`, but a file that is damaged only on this machine is deleted, so that it is downloaded again."""
        absent = {}
        for name, record in self.manifest.files.items():
            path = self.path / name
            whole = path.is_file() and path.stat().st_size == record.bytes
            if not whole or (checksums and file_sha256(path) != record.sha256):
                path.unlink(missing_ok=True)
                absent[name] = record
        return shared.missing(self.stage, self.key, absent) if absent else None


class Store:
    """Finds, writes, leases and collects artifacts under one root folder."""

    def __init__(self, root: Path | str) -> None:
        """Opens a folder, or a shared store given by its URL.

        Raises:
            UserError: `root` cannot be a folder, or the object store cannot be used.
            TransientError: the object store does not answer.
        """
        hint = "set runtime.store to a folder"
        url, root = (str(root), cache_of(str(root))) if is_url(root) else ("", Path(root))
        try:
            self.root = root.resolve()
            occupied = self.root.exists() and not self.root.is_dir()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, a loop of links
            raise UserError(f"the store's path cannot be used ({error})", where=repr(str(root)), hint=hint) from error

        if occupied:
            raise UserError("the store is not a folder", where=str(root), hint=hint)

        self.shared = shared_store(self.root)
        """The shared store, if several machines share it."""
        if url:
            self.sync()

    def sync(self) -> None:
        """Downloads the changes of other machines, if the store is shared."""
        if self.shared is not None:
            with explained(self.root):
                self.shared.sync()

    @property
    def ledger(self) -> Path:
        """The folder of the row ledgers."""
        return self.root / "ledger"

    def work(self, stage: str, key: str) -> Path:
        """The scratch folder of a step, which is created when the step starts and survives a kill."""
        return self.root / "work" / stage / key

    def artifact(self, stage: str, key: str) -> Artifact:
        """The artifact of that stage and key, whether or not it exists."""
        return Artifact(self.root / "artifacts" / stage / key)

    def input(self, stage: str, record: InputRecord) -> Artifact:
        """The artifact that a manifest records as an input: the one at its key, or a replaced one.

        If no artifact has the recorded content any more, the one at the key, whether or not it exists.
        """
        at_key = self.artifact(stage, record.key)
        if not record.files or at_key.matches(record):
            return at_key
        aside = (Artifact(path) for path in sorted((self.root / "replaced").glob(f"*/{stage}/{record.key}")))
        return next((artifact for artifact in aside if artifact.matches(record)), at_key)

    def find(self, stage: str, key: str, checksums: bool = False) -> Artifact | None:
        """The artifact if it exists and is complete; a damaged one is kept until it is rebuilt."""
        artifact = self.artifact(stage, key)
        return artifact if artifact.path.is_dir() and artifact.damage(checksums) is None else None

    def artifacts(self, stage: str | None = None) -> list[Artifact]:
        """All artifacts (of one stage), newest first. Reads no file; anything that is not an artifact is ignored."""
        root = self.root / "artifacts"
        stages = [root / stage] if stage else _folders(root)
        dated = [(stamp, path) for folder in stages for path in _folders(folder) if (stamp := _date(path)) is not None]
        return [Artifact(path) for _, path in sorted(dated, reverse=True)]

    def latest(self, stage: str) -> Artifact | None:
        """The newest artifact of a stage that is readable and complete."""
        for artifact in self.artifacts(stage):
            try:
                if artifact.damage() is None:
                    return artifact
            except TransientError as error:
                warn_once(f"skipped: {error}")
        return None

    @contextmanager
    def lease(self, name: str, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Holds the named lease; waits while another living process holds it (`mode` as for `flock`).

        In a shared store the lease is also held in the object store, and `sync` is called first.
        """
        path = self.make("leases") / f"{name}.lock"
        with explained(path), _opened(path, self.mode & 0o666) as descriptor:
            _lock(descriptor, mode, "the whole store" if name == IN_USE else name)
            with self._shared_lease(name, mode):
                yield

    @contextmanager
    def _shared_lease(self, name: str, mode: int) -> Iterator[None]:
        if self.shared is None:
            yield
            return

        leases, wait = self.shared.leases, not mode & fcntl.LOCK_NB
        if name == IN_USE:
            held = leases.alone() if mode & fcntl.LOCK_EX else leases.present()
        else:
            held = leases.hold(name, wait=wait)

        with held:
            self.shared.sync()
            try:
                yield
            finally:
                if self.shared.outbox.exists():
                    from darec.artifacts.segments import send_all  # imports Polars, which a plan does not need

                    send_all(self.shared)

    def in_use(self) -> AbstractContextManager[None]:
        """Shared lock for processes that read and write artifacts; `collect` does not run meanwhile."""
        return self.lease(IN_USE, fcntl.LOCK_SH)

    @contextmanager
    def draft(self, stage: str, key: str) -> Iterator[Path]:
        """A temporary folder to fill; removed when the block ends, unless `commit` moved it."""
        self.make("work", stage, key)
        path = self.root / "tmp" / f"{stage}-{key}-{_unique()}"
        with explained(path):
            try:
                yield self.make("tmp", path.name)
            finally:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def carrying(self, stage: str, key: str) -> Iterator[None]:
        """Also stores the checkpoints of a step in the object store, if the store is shared."""
        if self.shared is None:
            yield
            return
        with self.shared.carrying(self.work(stage, key)):
            yield

    def commit(self, draft: Path, manifest: Manifest) -> Artifact:
        """Commits a filled draft as the artifact of `manifest`: flush, write the manifest last, rename."""
        artifact = self.artifact(manifest.stage, manifest.key)
        if self.shared is not None:
            return self._commit_shared(self.shared, draft, manifest)

        with explained(artifact.path):
            (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            self._stamp(draft / MANIFEST, manifest.stage)
            for path in (*draft.rglob("*"), draft):
                self.restrict(path)
                flush(path)
            self.make("artifacts", manifest.stage)
            self._replace(artifact, draft, manifest)
            flush(artifact.path.parent)

        shutil.rmtree(self.work(manifest.stage, manifest.key), ignore_errors=True)
        return self.artifact(manifest.stage, manifest.key)  # `artifact` may have cached the manifest of its predecessor

    def _commit_shared(self, shared: Shared, draft: Path, manifest: Manifest) -> Artifact:
        # The time in the manifest makes the last commit the newest on all machines, even if a clock went back.
        dates = [_date(path) or 0 for path in _folders(self.root / "artifacts" / manifest.stage)]
        earliest = datetime.fromtimestamp(max([0, *dates]) / 1e9 + 0.001, UTC)
        manifest = manifest.model_copy(update={"created": max(manifest.created, earliest)})
        with explained(draft):
            (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            shared.upload(draft, manifest)
            shared.commit(draft, manifest)

        shutil.rmtree(self.work(manifest.stage, manifest.key), ignore_errors=True)
        return self.artifact(manifest.stage, manifest.key)

    def _stamp(self, manifest: Path, stage: str) -> None:
        """Sets the time of a manifest after all others of its stage, so that the last commit is the newest even if the
        clock went back.
        """
        dates = [_date(path) or 0 for path in _folders(self.root / "artifacts" / stage)]
        stamp = max([time.time_ns(), *(date + _TICK for date in dates)])
        os.utime(manifest, ns=(stamp, stamp))

    def _replace(self, artifact: Artifact, draft: Path, manifest: Manifest) -> None:
        """Moves `draft` to the artifact's path. An existing artifact with the same bytes is kept, because it may be
        open.
        """
        whole = artifact.path.is_dir() and artifact.damage(checksums=True) is None
        if whole and artifact.manifest.files == manifest.files:
            return
        if whole:
            self._move(artifact, self.root / "replaced" / _unique() / artifact.stage / artifact.key)
        elif artifact.path.is_dir():
            self._set_aside(artifact, "damaged")
        draft.rename(artifact.path)

    def remove(self, artifact: Artifact) -> None:
        """Deletes an artifact. It is renamed first, so that no reader sees it incomplete."""
        if self.shared is not None:
            self.shared.remove(artifact.path)
            return
        shutil.rmtree(self._set_aside(artifact, "tmp"))

    def _set_aside(self, artifact: Artifact, room: str) -> Path:
        return self._move(artifact, self.root / room / f"{artifact.stage}-{artifact.key}-{_unique()}")

    def _move(self, artifact: Artifact, target: Path) -> Path:
        self.make(*target.parent.relative_to(self.root).parts)
        artifact.path.rename(target)
        return target

    def make(self, *names: str) -> Path:
        """The folder of that name under the root, created if it does not exist; a new root is private."""
        folder = self.root.joinpath(*names)
        with explained(folder):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def mode(self) -> int:
        """The permission bits of the root folder: the maximum for everything in the store."""
        return stat.S_IMODE(self.root.stat().st_mode)

    def restrict(self, path: Path) -> None:
        """Removes permissions that the root does not have from a file or folder, regardless of the process's umask."""
        present = stat.S_IMODE(path.lstat().st_mode)
        allowed = present & (self.mode | 0o700)
        if present != allowed and not path.is_symlink():
            with suppress(OSError):  # a file system without permissions
                path.chmod(allowed)


_ABSENT = (FileNotFoundError, NotADirectoryError)
_NAME = re.compile(r"\w+")  # the name of a stage or a key


def _folders(parent: Path) -> list[Path]:
    """The folders in `parent` named like a stage or key. Anything else is logged and ignored."""
    try:
        with os.scandir(parent) as entries:
            found = [(Path(entry), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        warn_once(f"ignored, because it cannot be listed ({error.strerror}): {parent}")
        return []

    good = [path for path, is_folder in found if is_folder and _NAME.fullmatch(path.name)]
    for path in sorted({path for path, _ in found} - set(good)):
        warn_once(f"ignored, because it is not an artifact: {path}")
    return good


def _date(artifact: Path) -> int | None:
    """The time of the manifest, in nanoseconds. Without a manifest, logs a warning and returns None."""
    try:
        found = (artifact / MANIFEST).lstat()
    except OSError as error:
        warn_once(f"ignored, because it has no manifest ({error.strerror}): {artifact}")
        return None

    if not stat.S_ISREG(found.st_mode):
        warn_once(f"ignored, because its manifest is not a file: {artifact}")
        return None

    return found.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> TransientError:
    hint = "check its permissions and the disk, then try again: nothing was changed"
    return TransientError(f"a file cannot be read now ({error.strerror})", where=str(path), hint=hint)


@contextmanager
def _opened(path: Path, mode: int) -> Iterator[int]:
    """A descriptor of a lock file, which is created if it does not exist; links are not followed, and the file is not
    truncated.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, mode: int, name: str) -> None:
    """Locks a file. A process that waits for another one says so after a moment."""
    patience = Patience(name)
    while True:
        try:
            return fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if mode & fcntl.LOCK_NB:
                raise
            patience.waits()
            time.sleep(_PAUSE)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file under `folder`, by relative name."""
    return {
        str(path.relative_to(folder)): FileRecord(sha256=file_sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def code_revision() -> str:
    """The git revision of the source, with `-dirty` for uncommitted changes; `unknown` outside a checkout."""
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


@contextmanager
def explained(path: Path, what: str = "the store", setting: str = "runtime.store") -> Iterator[None]:
    """Converts errors of the operating system about `what`, whose place is `setting`, into errors with hints."""
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
            hint = f"mount it writable, or set {setting}"
            raise UserError(f"{what} cannot be written", where=str(path), hint=hint) from error
        if _means(error, errno.ENOLCK):
            hint = "mount it with locking across machines, or move the store to another disk"
            raise UserError("the store's file system cannot lock files", where=str(path), hint=hint) from error
        if isinstance(error, OSError) and error.errno in _OCCUPIED and _concerns(error, path):
            what = f"another file is at the path of a file of the store ({error.strerror})"
            raise UserError(what, where=str(error.filename), hint="move it away and try again") from error
        raise


_OCCUPIED = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


def _concerns(error: OSError, path: Path) -> bool:
    """Whether the error is about `path` or one of its parent folders."""
    return isinstance(error.filename, str | os.PathLike) and path.is_relative_to(error.filename)


def _means(error: Exception, *numbers: int) -> bool:
    """Whether the operating system reported one of the errors `numbers`; libraries in Rust and C++ pass on only its
    message.
    """
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(os.strerror(number) in str(error) for number in numbers)
