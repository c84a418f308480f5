"""One store for several machines: an object store (s3://bucket/folder), and on every machine a folder as its cache.

    state/<path> small files; the cache has all of them at <path>:
      artifacts/<stage>/<key>/manifest.json           written last, when all files of the artifact are there
      replaced/<id>/<stage>/<key>/manifest.json of artifacts that a rerun replaced by other bytes
      releases/<id>.json, current, nights.jsonl, receipts/<time>.json, ledger/batches/<id>.json
    files/<stage>/<key>/<sha256>/<name>               files of artifacts, downloaded to the cache on first use
    ledger/<name>/<segment>                           rows of the row ledgers (`darec.artifacts.segments`)
    work/<stage>/<key>/<name>                         checkpoints of an active step, if the recipe shares them
    damaged/<stage>/<key>/<sha256>/<name>             files with a wrong checksum, set aside
    leases/                                           leases (`darec.artifacts.leases`)

The object store is authoritative: `sync` updates the cache. Files of `state` are written on the condition that they
have the version that this machine last read, so that no machine overwrites an unknown change; files of artifacts have
their checksum in their name and are immutable. A cache can be deleted whenever no run is active, except its folder
`outbox`, which holds rows that are not uploaded yet.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from darec.artifacts.leases import Leases
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.files import replacing
from darec.common.objects import Objects
from darec.common.warnings import warn_once
from schemas.manifest import MANIFEST, FileRecord, Manifest

CACHE = "DAREC_CACHE"
"""Environment variable: the folder of the caches of shared stores; default data/cache."""
CURRENT = "current"
MARKER = "shared.json"
"""File of a cache: the address of its store."""
_VERSIONS = "versions.json"
"""File of a cache: the version of every file of `state` in it."""
_LOCK = "versions.lock"
_OUTBOX = "outbox"
CACHE_FILES = (MARKER, _VERSIONS, _LOCK, _OUTBOX)
"""Files and folders that a cache has in addition to those of a store."""
_STATE = "state/"
_AT_ONCE = 16  # concurrent requests
_WORK_DAYS = 7  # after this time, checkpoints of killed runs and files set aside are deleted


class ConflictError(TransientError):
    """Another machine has changed the file in the meantime."""


def cache_of(url: str) -> Path:
    """The folder of the cache of a store, which is created if it does not exist.

    Raises:
        UserError: the store cannot be used.
        TransientError: the object store does not answer.
    """
    if not url.startswith("s3://"):  # the conditional writes of other services are not tested
        raise UserError("a store must be a folder or in S3", where=url, hint="set runtime.store to s3://bucket/folder")
    name = re.sub(r"\W+", "-", url.partition("://")[2]).strip("-")
    folder = Path(os.environ.get(CACHE) or "data/cache") / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _caches(folder, url):
        check_conditions(Objects(url))
        with replacing(folder / MARKER) as draft:
            draft.write_text(json.dumps({"url": url}) + "\n")
    return folder


def _caches(folder: Path, url: str) -> bool:
    """Whether the folder is marked as the cache of the store; a damaged marker is written again."""
    with suppress(OSError, ValueError):
        return json.loads((folder / MARKER).read_bytes())["url"] == url
    return False


def shared_store(cache: Path) -> "Shared | None":
    """The shared store that the folder caches; None if the folder is the store itself.

    Raises:
        UserError: this user may not enter the folder.
    """
    try:
        shared = (cache / MARKER).exists()
    except PermissionError as error:
        hint = f"give it to the user who runs darec (`chown -R {os.getuid()}`), or set runtime.store"
        raise UserError("the folder of the store cannot be read", where=str(cache), hint=hint) from error
    return _opened(str(cache), os.getpid()) if shared else None


@lru_cache
def _opened(cache: str, process: int) -> "Shared":
    """One instance per process, because leases belong to the process."""
    folder = Path(cache)
    return Shared(folder, Objects(json.loads((folder / MARKER).read_text())["url"]))


def check_conditions(objects: Objects) -> None:
    """Raises UserError for a server that ignores the conditions of writes."""
    name = f"leases/probe-{uuid.uuid4().hex}.json"
    try:
        version = objects.create(name, b"1")
        kept = objects.create(name, b"2") is None
        if not version or not kept or objects.swap(name, b"3", '"another"') or not objects.swap(name, b"4", version):
            hint = "use one with If-None-Match and If-Match for PUT: Amazon S3, MinIO, Ceph, Cloudflare R2"
            raise UserError("this server does not support conditional writes", where=objects.url, hint=hint)
    finally:
        objects.delete([name])


def clock_difference(objects: Objects) -> timedelta:
    """By how much the server's clock is ahead of this machine's, to about a second."""
    name = f"leases/probe-{uuid.uuid4().hex}.json"
    try:
        before = datetime.now(UTC)
        objects.create(name, b"1")
        after = datetime.now(UTC)
        written = next((each.modified for each in objects.list("leases") if each.name == name), after)
    finally:
        objects.delete([name])
    # A server may tell whole seconds only, so what is within the request and a second of it is no difference.
    if before - timedelta(seconds=1) <= written <= after:
        return timedelta(0)
    return written - (before + (after - before) / 2)


class Shared:
    """The object store behind a cache."""

    def __init__(self, cache: Path, objects: Objects) -> None:
        self.cache, self.objects, self.leases = cache, objects, Leases(objects)

    # Small files, which the cache has in full

    def sync(self) -> None:
        """Updates the small files of the cache from the object store."""
        with self._locked():
            known = self._versions()
            there = {each.name.removeprefix(_STATE): each.version for each in self.objects.list(_STATE)}
            gone = [name for name in known if name not in there]
            for name in gone:
                self._remove(name)
            new = [name for name in there if known.get(name) != there[name] or not os.path.lexists(self.cache / name)]
            kept = {name: version for name, version in known.items() if name in there}
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for name, found in zip(new, pool.map(lambda name: self.objects.read(_STATE + name), new), strict=True):
                    if found is not None:
                        self._place(name, found[0])
                        kept[name] = found[1]
            if gone or new:
                self._keep(kept)

    def write(self, name: str, content: bytes) -> None:
        """Writes or replaces a small file in the cache and in the object store.

        Raises:
            ConflictError: another machine has changed it since the last `sync`.
        """
        with self._locked():
            self._write(name, content)

    def delete(self, name: str) -> None:
        """Deletes a small file in the cache and in the object store, if it exists."""
        with self._locked():
            self.objects.delete([_STATE + name])
            self._remove(name)
            self._keep({other: version for other, version in self._versions().items() if other != name})

    def append(self, name: str, line: bytes) -> None:
        """Appends a line to a small file."""
        while True:
            self.sync()
            path = self.cache / name
            try:
                return self.write(name, (path.read_bytes() if path.exists() else b"") + line)
            except ConflictError:
                continue

    # Artifacts

    def upload(self, folder: Path, manifest: Manifest) -> None:
        """Uploads the files of a finished artifact that the object store does not have yet."""
        there = self._sizes(manifest.stage, manifest.key)
        new = [(name, each) for name, each in manifest.files.items() if there.get(_file(name, each)) != each.bytes]

        def put(name: str, record: FileRecord) -> None:
            self.objects.put(f"{_files(manifest.stage, manifest.key)}{_file(name, record)}", folder / name)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda each: put(*each), new))

    def commit(self, draft: Path, manifest: Manifest) -> None:
        """Commits a folder, whose files are uploaded, as an artifact. It replaces an artifact with other bytes.

        Raises:
            ConflictError: another machine has committed the artifact in the meantime.
        """
        name = f"artifacts/{manifest.stage}/{manifest.key}/{MANIFEST}"
        with self._locked():
            before = _manifest_at(self.cache / name)
            if before is not None and before.files == manifest.files:
                self._fill(self.cache / name, draft, manifest)
                return
            if before is not None:
                aside = f"replaced/{uuid.uuid4().hex[:8]}/{manifest.stage}/{manifest.key}/{MANIFEST}"
                self._write(aside, (self.cache / name).read_bytes())
            self._write(name, (draft / MANIFEST).read_bytes())
            self._fill(self.cache / name, draft, manifest)

    def missing(self, stage: str, key: str, records: dict[str, FileRecord]) -> str | None:
        """A description of wrong sizes of an artifact's files in the object store, or None."""
        there = self._sizes(stage, key)
        for name, record in records.items():
            found = there.get(_file(name, record))
            if found is None:
                return f"{name} is missing"
            if found != record.bytes:
                return f"{name} has {found} bytes in the shared store, its manifest says {record.bytes}"
        return None

    def download(self, folder: Path, names: Sequence[str], manifest: Manifest) -> None:
        """Downloads files of an artifact into its folder, each complete and with a verified checksum.

        Raises:
            DarecError: a file is missing, or has a wrong checksum; then it is set aside.
        """

        def fetch(name: str) -> None:
            record = manifest.files[name]
            place = f"{manifest.stage}/{manifest.key}/{_file(name, record)}"
            for _ in range(2):  # the cause may be the network or the local disk
                if self._download(f"files/{place}", folder / name, record.sha256):
                    return
            self.objects.move(f"files/{place}", f"damaged/{place}")
            what = (
                f"{name} of {manifest.stage} {manifest.key} does not have the checksum in its manifest; it is set aside"
            )
            raise DarecError(what, where=self.objects.url, hint="run again: the artifact is rebuilt")

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, names))

    def _download(self, name: str, path: Path, sha256: str) -> bool:
        """Downloads a file. Returns whether it has the checksum."""
        digest = hashlib.sha256()
        draft = self.cache / "tmp" / f"download-{uuid.uuid4().hex[:8]}"
        draft.parent.mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                for chunk in self.objects.chunks(name):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() == sha256:
                draft.rename(path)
                return True
            return False
        except FileNotFoundError as error:
            what, hint = "a file of an artifact is missing", "run again: the artifact is rebuilt"
            raise DarecError(what, where=f"{self.objects.url}/{name}", hint=hint) from error
        finally:
            draft.unlink(missing_ok=True)

    def remove(self, folder: Path) -> None:
        """Deletes an artifact in the object store: first its manifest, then the files that no other manifest names."""
        name = f"{folder.relative_to(self.cache)}/{MANIFEST}"
        self.delete(name)
        stage, key = folder.parent.name, folder.name
        others = [path for path in self._manifests(stage, key) if path.parent != folder]
        needed = self._named(others)
        prefix = _files(stage, key)
        self.objects.delete(prefix + file for file in self._sizes(stage, key) if prefix + file not in needed)

    def sweep(self, keep_lease: str) -> None:
        """Deletes uploads without a manifest, old checkpoints, and unused leases.

        Requires exclusive access, because the uploads of an active run have no manifest yet.
        """
        needed = self._named(
            [*self.cache.glob(f"artifacts/*/*/{MANIFEST}"), *self.cache.glob(f"replaced/*/*/*/{MANIFEST}")]
        )
        self.objects.delete(each.name for each in self.objects.list("files/") if each.name not in needed)
        old = datetime.now(UTC) - timedelta(days=_WORK_DAYS)
        stale = [each.name for room in ("work/", "damaged/") for each in self.objects.list(room) if each.modified < old]
        self.objects.delete(stale)
        self.leases.sweep(keep_lease)

    def empty(self, room: str) -> None:
        """Deletes all objects under `work` or `damaged`."""
        self.objects.delete(each.name for each in self.objects.list(f"{room}/"))

    def _named(self, manifests: Iterable[Path]) -> set[str]:
        """The names of all files that some manifests list."""
        found = set()
        for path in manifests:
            if (manifest := _manifest_at(path)) is None:
                hint = "delete it in the cache; the next command downloads it again"
                raise DarecError("a manifest cannot be read: nothing is deleted", where=str(path), hint=hint)
            prefix = _files(manifest.stage, manifest.key)
            found |= {prefix + _file(name, record) for name, record in manifest.files.items()}
        return found

    def _manifests(self, stage: str, key: str) -> list[Path]:
        """The manifests of the artifact at a key and of those that it replaced."""
        at_key = self.cache / "artifacts" / stage / key / MANIFEST
        return [*([at_key] if at_key.exists() else []), *self.cache.glob(f"replaced/*/{stage}/{key}/{MANIFEST}")]

    def _sizes(self, stage: str, key: str) -> dict[str, int]:
        """The size in bytes of each uploaded file, by checksum and name."""
        prefix = _files(stage, key)
        return {each.name.removeprefix(prefix): each.bytes for each in self.objects.list(prefix)}

    # Checkpoints

    @contextmanager
    def carrying(self, folder: Path) -> Iterator[None]:
        """Downloads the existing checkpoints into a folder, and uploads new ones while the block runs."""
        prefix = f"{folder.relative_to(self.cache)}/"
        self._bring(folder, prefix)
        sent = _dates(folder)
        ended = threading.Event()

        def send() -> None:
            for path, date in _dates(folder).items():
                if sent.get(path) != date:
                    self.objects.put(prefix + path.name, path)
                    sent[path] = date

        def follow() -> None:
            while not ended.wait(self.leases.seconds / 4):
                try:
                    send()
                except (TransientError, OSError) as error:  # replaced in the meantime, or no network
                    warn_once(f"a checkpoint could not be uploaded: {error}")

        thread = threading.Thread(target=follow, name=f"checkpoints {prefix}", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with suppress(DarecError, OSError):
                send()
            raise
        finally:
            ended.set()
            thread.join()
        self.objects.delete([each.name for each in self.objects.list(prefix)])

    def _bring(self, folder: Path, prefix: str) -> None:
        """Downloads checkpoints of other machines that are newer than the local ones."""
        folder.mkdir(parents=True, exist_ok=True)
        for each in self.objects.list(prefix):
            path = folder / each.name.removeprefix(prefix)
            if not path.exists() or path.stat().st_mtime < each.modified.timestamp():
                with replacing(path) as draft, draft.open("wb") as file:
                    file.writelines(self.objects.chunks(each.name))

    # Files of the cache

    def _write(self, name: str, content: bytes) -> None:
        known = self._versions()
        path = _STATE + name
        write = self.objects.swap(path, content, known[name]) if name in known else self.objects.create(path, content)
        if write is None:
            hint = "run again: finished work is kept"
            raise ConflictError(
                "another machine changed this in the meantime", where=f"{self.objects.url}/{path}", hint=hint
            )
        self._place(name, content)
        self._keep(known | {name: write})

    def _place(self, name: str, content: bytes) -> None:
        """Downloads a file of the object store to its path in the cache."""
        path = self.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.cache / "tmp" / f"sync-{uuid.uuid4().hex[:8]}"
        draft.parent.mkdir(exist_ok=True)
        if name == CURRENT:
            with replacing(path, draft=draft):
                draft.symlink_to(content.decode())
            return
        if path.name == MANIFEST and path.exists() and path.read_bytes() != content:
            shutil.rmtree(path.parent)  # files of the replaced artifact
            path.parent.mkdir()
        with replacing(path, draft=draft):
            draft.write_bytes(content)
            if path.name == MANIFEST:
                _date(draft, content)

    def _fill(self, manifest: Path, draft: Path, files: Manifest) -> None:
        """Moves the files of a committed draft to the folder of the manifest."""
        for name in files.files:
            (manifest.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(manifest.parent / name)

    def _remove(self, name: str) -> None:
        """Deletes from the cache what is no longer in the object store."""
        path = self.cache / name
        if path.name == MANIFEST:
            shutil.rmtree(path.parent, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _versions(self) -> dict[str, str]:
        # Without them, or if they are damaged, all files are downloaded again.
        with suppress(FileNotFoundError, ValueError):
            return json.loads((self.cache / _VERSIONS).read_bytes())
        return {}

    def _keep(self, versions: dict[str, str]) -> None:
        with replacing(self.cache / _VERSIONS) as draft:
            draft.write_text(json.dumps(versions))

    @property
    def outbox(self) -> Path:
        """Rows that are not uploaded yet."""
        return self.cache / _OUTBOX

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process of this machine at a time changes the cache."""
        with (self.cache / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _files(stage: str, key: str) -> str:
    return f"files/{stage}/{key}/"


def _file(name: str, record: FileRecord) -> str:
    return f"{record.sha256}/{name}"


def _manifest_at(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _date(path: Path, manifest: bytes) -> None:
    """Sets the file time of a manifest to the time in it, so that all machines agree on the newest artifact."""
    with suppress(ValueError):
        created = Manifest.model_validate_json(manifest).created
        os.utime(path, ns=(nanoseconds(created), nanoseconds(created)))


def nanoseconds(date: datetime) -> int:
    """A time in the resolution of file systems."""
    return round(date.timestamp() * 1e6) * 1000


def _dates(folder: Path) -> dict[Path, int]:
    """The modification time of each finished file, in nanoseconds."""
    found = {}
    for path in folder.glob("[!.]*"):
        if path.is_file() and path.suffix != ".partial":
            found[path] = path.stat().st_mtime_ns
    return found
