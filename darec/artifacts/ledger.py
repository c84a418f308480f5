"""The row ledger: what was made for a row, kept by the hash of all that went into it.

A folder of Parquet files, each written under another name, flushed, and renamed once; none is ever changed. A file's
name holds the time it was written and the hash of its bytes, so a damaged file is known by reading it. Of two rows with
the same key the older one counts. Several processes may append to one folder at once.
"""

import contextlib
import hashlib
import io
import os
import time
import warnings
from pathlib import Path

import polars as pl

from darec.common.errors import DarecError

KEY = "key"
_COMPACT_FILES = 256
_ROWS_PER_FILE = 100_000


def row_key(*parts: bytes) -> str:
    """The key of a row from everything that determines it: 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class Ledger:
    """Rows of `schema` (which holds the column `key`) in `folder`, which is made when the first row is written."""

    def __init__(self, folder: Path, schema: dict[str, pl.DataType]) -> None:
        self.folder, self.schema = folder, schema

    def missing(self, keys: pl.Series) -> pl.Series:
        """Those of `keys` that the ledger does not hold, once each, in order. Reads the key columns only."""
        known = [keys_of for path in self._files() if (keys_of := self._keys(path)) is not None]
        held = pl.concat(known) if known else pl.Series(KEY, [], dtype=pl.String)
        wanted = keys.unique(maintain_order=True)
        return wanted.filter(~wanted.is_in(held.implode()))

    def get(self, keys: pl.Series) -> pl.DataFrame:
        """The rows of `keys` that are there, one each, in no order. Every file that is read is verified."""
        wanted = pl.DataFrame({KEY: keys.unique()})
        found = [pl.DataFrame(schema=self.schema)]
        for path in self._files():
            held = self._keys(path)
            if held is not None and held.is_in(wanted[KEY].implode()).any() and (rows := self._rows(path)) is not None:
                found.append(rows.join(wanted, on=KEY, how="semi"))
        return pl.concat(found).unique(KEY, keep="first", maintain_order=True)

    def append(self, rows: pl.DataFrame) -> None:
        """Keeps `rows`; when this returns they survive a kill and a power cut.

        Raises:
            DarecError: the disk is full or may not be written.
        """
        if rows.height:
            self._write(rows.select([pl.col(name).cast(dtype) for name, dtype in self.schema.items()]), time.time_ns())

    def compact(self) -> None:
        """Merges the small files into few; called by whoever alone writes. A kill leaves both, which is harmless."""
        files = self._files()
        if len(files) < _COMPACT_FILES:
            return
        small = [path for path in files if path.stat().st_size < 64 * 2**20]
        tables = [rows for path in small if (rows := self._rows(path)) is not None]
        if not tables:
            return
        merged = pl.concat(tables).unique(KEY, keep="first", maintain_order=True)
        first = _written(small[0])
        for number, start in enumerate(range(0, merged.height, _ROWS_PER_FILE)):
            self._write(merged.slice(start, _ROWS_PER_FILE), first + number)
        for path in small:
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _write(self, rows: pl.DataFrame, stamp: int) -> None:
        buffer = io.BytesIO()
        rows.write_parquet(buffer, compression="zstd")
        content = buffer.getvalue()
        target = self.folder / f"{stamp:020d}-{_digest(content)}.parquet"
        draft = target.with_suffix(f".{os.getpid()}.draft")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            draft.rename(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            hint = "free space or fix the rights; finished rows are kept"
            raise DarecError(
                f"the ledger cannot be written ({error.strerror})", where=str(self.folder), hint=hint
            ) from error

    def _keys(self, path: Path) -> pl.Series | None:
        try:
            return pl.read_parquet(path, columns=[KEY])[KEY]
        except FileNotFoundError:
            return None  # compacted away by another process; its rows are in a newer file
        except Exception as error:
            return self._set_aside(path, str(error).splitlines()[0])

    def _rows(self, path: Path) -> pl.DataFrame | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if _digest(content) != path.stem.split("-")[-1]:
            return self._set_aside(path, "its bytes are not those that were written")
        return pl.read_parquet(io.BytesIO(content)).select(list(self.schema))

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            path.rename(aside)
        warnings.warn(
            f"ledger file {path} is damaged ({reason}); set aside as {aside.name}, its rows are redone", stacklevel=2
        )


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _written(path: Path) -> int:
    return int(path.stem.split("-")[0])
