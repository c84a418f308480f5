"""Rows of a row ledger that several machines share: segments, small Parquet files in an object store.

A process first writes new rows to a file in the `outbox`, and within a second uploads all rows there as one segment.
Rows that could not be uploaded, because of the network or because the process was killed, are uploaded by the next
process on this machine. A segment is named by its time and the hash of its bytes, and is immutable. The SQLite file of
each machine records which segments it contains: only the others are downloaded. A segment disappears when it is
replaced by one without a person who was forgotten: then the SQLite file is rebuilt from the existing segments.
"""

import fcntl
import io
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from darec.artifacts.parquet_ledger import holds, parquet_rows, purge
from darec.artifacts.shared import Shared
from darec.common.errors import TransientError
from darec.common.files import replacing
from darec.common.objects import Objects
from darec.common.warnings import warn_once
from schemas.tables import TableSchema

_PAUSE = 1.0  # seconds between two segments of a process
_AT_ONCE = 32  # segments downloaded concurrently
_REPLACES = "-r-"
"""In the name of a segment whose rows replace others."""


class Segments:
    """The segments of one ledger."""

    def __init__(self, shared: Shared, name: str, schema: TableSchema) -> None:
        self._objects, self._schema = shared.objects, schema
        self._prefix = f"ledger/{name}/"
        self._outbox = shared.outbox / name
        self._lock, self._sent, self._timer = threading.Lock(), 0.0, None

    def keep(self, rows: pl.DataFrame, *, replace: bool) -> None:
        """Stores rows, which then survive a kill and a power failure, and within a second also the
        loss of the machine.
        """
        content = _parquet(rows)
        self._outbox.mkdir(parents=True, exist_ok=True)
        with replacing(self._outbox / _name(content, replace=replace), durable=True) as draft:
            draft.write_bytes(content)

        # Otherwise each answer of an LLM would be a segment; the answers of one second are one segment.
        with self._lock:
            wait = self._sent + _PAUSE - time.monotonic()
            if wait <= 0:
                self._sent = time.monotonic()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._send_later)
                self._timer.daemon = True
                self._timer.start()

        if wait <= 0:
            self.send()

    def _send_later(self) -> None:
        with self._lock:
            self._timer, self._sent = None, time.monotonic()
        self.send()

    def send(self) -> None:
        """Uploads the rows in the outbox. Rows that cannot be uploaded stay there, which is logged."""
        _send(self._objects, self._outbox, self._prefix)

    def names(self) -> list[str]:
        """The existing segments, oldest first."""
        return sorted(each.name.removeprefix(self._prefix) for each in self._objects.list(self._prefix))

    def fetch(self, names: Sequence[str]) -> Iterator[tuple[str, pl.DataFrame, bool]]:
        """Name and rows of each segment, and whether the rows replace others; damaged segments are
        logged and left out.
        """
        with TemporaryDirectory() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(names), _AT_ONCE):
                for path in pool.map(lambda name: self._fetch(name, Path(folder)), names[start : start + _AT_ONCE]):
                    if path is None:
                        continue
                    rows = parquet_rows(path, self._schema)
                    if rows is None:
                        warn_once(
                            f"ledger segment {self._prefix}{path.name} is damaged; its rows have to be generated again"
                        )
                    else:
                        yield path.name, rows, _REPLACES in path.name
                    path.unlink()

    def _fetch(self, name: str, folder: Path) -> Path | None:
        found = self._objects.read(self._prefix + name)
        if found is None:
            return None
        path = folder / name
        path.write_bytes(found[0])
        return path

    def forget(self, column: str, values: Sequence[str | bytes]) -> None:
        """Rewrites the segments that have one of `values` in `column`, without these rows."""
        for name in self.names():
            with TemporaryDirectory() as folder:
                path = self._fetch(name, Path(folder))
                if path is None or not holds(path, column, values):
                    continue
                purge(path, column, values)
                for new in Path(folder).glob("*.parquet"):
                    kept = new.name.replace("-", _REPLACES) if _REPLACES in name else new.name
                    self._objects.put(self._prefix + kept, new)
                self._objects.delete([self._prefix + name])


def send_all(shared: Shared) -> None:
    """Uploads the rows in the outboxes of all ledgers."""
    for outbox in [path for path in shared.outbox.glob("*") if path.is_dir()]:
        _send(shared.objects, outbox, f"ledger/{outbox.name}/")


def _send(objects: Objects, outbox: Path, prefix: str) -> None:
    """Uploads the files of an outbox as one segment, and the files whose rows replace others as another one."""
    if not outbox.exists():
        return
    with outbox.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = sorted(outbox.glob("[!.]*.parquet"))
        for replace in (False, True):
            paths = [path for path in waiting if (_REPLACES in path.name) == replace]
            if not paths:
                continue
            content = _parquet(pl.concat([pl.read_parquet(path, glob=False) for path in paths]))
            try:
                objects.put(prefix + _name(content, replace=replace), content)
            except TransientError as error:
                warn_once(f"rows stay on this machine until the object store is available: {error}")
                return
            for path in paths:
                path.unlink()


def _parquet(rows: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    rows.write_parquet(content, compression="zstd")
    return content.getvalue()


def _name(content: bytes, *, replace: bool) -> str:
    digest = blake2b(content, digest_size=16).hexdigest()
    return f"{time.time_ns():020d}{_REPLACES if replace else '-'}{digest}.parquet"


def ledgers(shared: Shared) -> set[str]:
    """The names of all ledgers that have segments."""
    return {each.name.split("/")[1] for each in shared.objects.list("ledger/")}
