"""Rows of a row ledger that several machines share: segments, which are small Parquet files in an object store.

Whoever makes rows writes them as one segment into its own `outbox` before they count as kept, and then sends it; what
could not be sent, for want of a network or since the process was killed, is sent by the next who looks. A segment is
named by its time and the hash of its bytes and never changed. The SQLite file of each machine knows which segments it
has: only the others are fetched. A segment that is gone was written again without a person who was forgotten: then the
SQLite file is made again from the segments that are there.
"""

import io
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
from darec.common.notices import tell_once
from schemas.tables import TableSchema

_AT_ONCE = 32  # segments fetched together
_REPLACES = "-r-"
"""In the name of a segment whose rows take the place of others."""


class Segments:
    """The segments of one ledger."""

    def __init__(self, shared: Shared, name: str, schema: TableSchema) -> None:
        self._objects, self._schema = shared.objects, schema
        self._prefix = f"ledger/{name}/"
        self._outbox = shared.outbox / name

    def keep(self, rows: pl.DataFrame, *, replace: bool) -> str:
        """Writes rows into the outbox, so that they survive a kill and a power cut; returns the segment's name."""
        content = io.BytesIO()
        rows.write_parquet(content, compression="zstd")
        digest = blake2b(content.getvalue(), digest_size=16).hexdigest()
        name = f"{time.time_ns():020d}{_REPLACES if replace else '-'}{digest}.parquet"
        self._outbox.mkdir(parents=True, exist_ok=True)
        with replacing(self._outbox / name, durable=True) as draft:
            draft.write_bytes(content.getvalue())
        return name

    def send(self) -> None:
        """Sends what is in the outbox; what cannot be sent now stays there, and the log says so."""
        for path in sorted(self._outbox.glob("[!.]*.parquet")):
            try:
                self._objects.put(self._prefix + path.name, path)
            except TransientError as error:
                tell_once(f"rows stay on this machine until the object store answers: {error}")
                return
            except FileNotFoundError:  # another process of this machine has sent it
                continue
            path.unlink(missing_ok=True)

    def waiting(self) -> set[str]:
        """The segments of this machine that are not sent yet."""
        return {path.name for path in self._outbox.glob("[!.]*.parquet")}

    def names(self) -> list[str]:
        """The segments that are there, oldest first."""
        return sorted(each.name.removeprefix(self._prefix) for each in self._objects.list(self._prefix))

    def fetch(self, names: Sequence[str]) -> Iterator[tuple[str, pl.DataFrame, bool]]:
        """Name and rows of each segment, and whether the rows replace others; damaged ones are told and left out."""
        with TemporaryDirectory() as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(names), _AT_ONCE):
                for path in pool.map(lambda name: self._fetch(name, Path(folder)), names[start : start + _AT_ONCE]):
                    if path is None:
                        continue
                    rows = parquet_rows(path, self._schema)
                    if rows is None:
                        tell_once(
                            f"ledger segment {self._prefix}{path.name} is damaged; its rows have to be made again"
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
        """Writes the segments again that have one of `values` in `column`, without these rows."""
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


def ledgers(shared: Shared) -> set[str]:
    """The names of all ledgers that have segments."""
    return {each.name.split("/")[1] for each in shared.objects.list("ledger/")}
