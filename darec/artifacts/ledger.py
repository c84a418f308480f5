"""The row ledger: what was made for a row, kept by the hash of all that went into it.

A ledger is one SQLite file: SQLite needs no further package, takes rows faster than any model makes them, and reports a
damaged or missing page where LMDB ends the process. It uses the rollback journal and not the write-ahead log, so that a
reader writes nothing, not even where it may, and a copy of the one file is a backup.

Every row has a checksum over its key and values. A row whose checksum is wrong, or whose page cannot be read, counts
as missing and is never given out. Of two rows with the same key the older one counts, unless the younger one was
appended to replace it. Any number of processes may read and append at once.
"""

import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from darec.artifacts.parquet_ledger import parquet_files, parquet_rows
from darec.artifacts.salvage import salvage
from darec.artifacts.tables import conform
from darec.common.errors import DarecError, TransientError, UserError
from schemas.tables import TableSchema

KEY = "key"
WAIT = 60.0  # seconds that a process waits for its turn

_PAGE_BYTES = 8192  # with SQLite's own 4,096 a quarter of each page of vectors would stay empty
_BATCH = 8192  # keys looked up by one statement; no lock is held between two statements
_APPLICATION = 0x64617265  # in the file's header: a ledger of darec, whatever else may be damaged
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

_FREE_SPACE = "free space (`darec gc`) and run again: the rows that were kept are safe"
_FIX_RIGHTS = "let this user read and write the store's folder `ledger`, or run as the user who owns it"
_TRY = "run again; nothing was changed, and the rows that were kept are safe"

_log = logging.getLogger(__name__)

Row = tuple[Any, ...]  # key, checksum, then the other columns in the order of the file; text as its UTF-8 bytes


def row_key(*parts: bytes) -> str:
    """The key of a row from everything that determines it: 32 hex digits."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@dataclass
class Survey:
    """Which of some keys a ledger lacks, and what of it is damaged."""

    missing: pl.Series
    """The keys without a sound row, once each, in order."""
    damaged_rows: int = 0
    """How many of them have a row that cannot be read or whose checksum is wrong."""
    faults: list[str] = field(default_factory=list)
    """What is damaged beyond single rows."""

    @property
    def damage(self) -> str:
        """All damage in one line; empty if there is none."""
        rows = [f"{self.damaged_rows:,} rows are damaged"] if self.damaged_rows else []
        return "; ".join([*self.faults, *rows])


class Ledger:
    """Rows of `schema` (which holds the column `key`) in the SQLite file `path`, made when the first row is written.

    `survey`, `missing` and `get` change nothing on disk. The rows of version 0.1, in a folder of Parquet files that has
    the file's name without its suffix, are read as well; `missing(repair=True)` imports them.

    Every method raises UserError if the file or its folder may not be read or written or the disk is full, and
    TransientError if it cannot be read just now or another process keeps it locked.
    """

    def __init__(self, path: Path, schema: TableSchema) -> None:
        self.path, self.schema = path, schema

    def survey(self, keys: pl.Series) -> Survey:
        """Looks `keys` up and verifies their rows."""
        survey = Survey(keys.unique(maintain_order=True).rename(KEY))
        with self._explained():
            found = [rows[KEY] for rows in self._sound_rows(survey.missing, [KEY], survey)]
        if found:
            survey.missing = survey.missing.filter(~survey.missing.is_in(pl.concat(found).implode()))
        return survey

    def missing(self, keys: pl.Series, *, repair: bool = False) -> pl.Series:
        """Those of `keys` without a sound row, once each, in order.

        Args:
            keys: the keys asked for.
            repair: for whoever makes the missing rows and appends them. The rows of version 0.1 are imported, and what
                can be read of a damaged file is recovered, before any row counts as missing.
        """
        with self._explained():
            if repair:
                self._import()
            survey = self.survey(keys)
            if repair and len(survey.missing) and self._rebuild_if_damaged():
                survey = self.survey(keys)
        if survey.damage:
            _log.warning("ledger %s: %s; what is missing has to be made again", self.path, survey.damage)
        return survey.missing

    def get(self, keys: pl.Series) -> pl.DataFrame:
        """The sound rows of `keys` that are there, one each, in no order."""
        wanted = keys.unique().rename(KEY)
        with self._explained():
            found = list(self._sound_rows(wanted, list(self.schema), Survey(wanted)))
        return pl.concat([pl.DataFrame(schema=self.schema), *found])

    def append(self, rows: pl.DataFrame, *, replace: bool = False) -> None:
        """Keeps `rows`; when this returns they survive a kill and a power cut.

        Args:
            rows: the columns of the schema; those that may be null may be left out.
            replace: whether a row takes the place of one with its key. If not, the one that is there stays, unless it
                is damaged.
        """
        if rows.is_empty():
            return
        table = self._conformed(rows)
        with self._explained():
            try:
                self._insert(table, replace=replace)
            except sqlite3.DatabaseError as error:
                if not (_is_damage(error) and self._rebuild_if_damaged()):
                    raise
                self._insert(table, replace=replace)

    def _conformed(self, rows: pl.DataFrame) -> pl.DataFrame:
        absent = [pl.lit(None, self.schema[name]).alias(name) for name in self.schema.nullable - set(rows.columns)]
        complete = rows.with_columns(absent)
        typed = [pl.col(name).cast(dtype) for name, dtype in self.schema.items() if name in complete.columns]
        table = complete.select(typed).fill_nan(None)  # SQLite has no NaN
        return conform(table, self.schema, str(self.path))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what SQLite and the operating system refuse into errors that say how to fix it."""
        where = str(self.path)
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _FULL:
                raise UserError("the disk is full", where=where, hint=_FREE_SPACE) from error
            if error.errno in _REFUSED:
                raise UserError(f"the ledger cannot be used ({reason})", where=where, hint=_FIX_RIGHTS) from error
            raise TransientError(f"the ledger cannot be used just now ({reason})", where=where, hint=_TRY) from error
        except sqlite3.Error as error:
            match _code(error):
                case sqlite3.SQLITE_FULL:
                    raise UserError("the disk is full", where=where, hint=_FREE_SPACE) from error
                case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                    raise UserError("the ledger cannot be written", where=where, hint=_FIX_RIGHTS) from error
                case sqlite3.SQLITE_CANTOPEN if self.path.is_dir() or not os.access(self.path, os.R_OK):
                    raise UserError("the ledger may not be read", where=where, hint=_FIX_RIGHTS) from error
                case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                    raise DarecError(f"the ledger is damaged ({error})", where=where, hint="run again") from error
                case _:
                    what = f"the ledger cannot be used just now ({error})"
                    raise TransientError(what, where=where, hint=_TRY) from error

    # Reading

    def _sound_rows(self, keys: pl.Series, columns: list[str], survey: Survey) -> Iterator[pl.DataFrame]:
        """`columns` (with the key) of the sound rows of `keys`, one a key, in batches. Notes damage in `survey`."""
        found, imported = [keys.clear()], set[str]()
        if _exists(self.path):
            with self._reading() as db:
                try:
                    names, imported = list(self._columns(db)), _imported(db)
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    survey.faults.append(f"the file is damaged ({error})")
                    names = []
                for start in range(0, len(keys) if names else 0, _BATCH):
                    rows, damaged = _look_up(db, names, keys[start : start + _BATCH].to_list())
                    survey.damaged_rows += damaged
                    table = self._table(names, rows).select(columns)
                    found.append(table[KEY])
                    yield table

        not_imported = [path for path in parquet_files(self._old_folder) if path.name not in imported]
        for path in not_imported:
            rows = parquet_rows(path, self.schema)
            if rows is None:
                survey.faults.append(f"{path.name} of version 0.1 is damaged")
                continue
            left = keys.filter(~keys.is_in(pl.concat(found).implode()))
            table = rows.filter(pl.col(KEY).is_in(left.implode())).unique(KEY, keep="first").select(columns)
            found.append(table[KEY])
            yield table

    @property
    def _old_folder(self) -> Path:
        return self.path.with_suffix("")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(_connect(self.path, "ro")) as db:
            db.execute("PRAGMA writable_schema=ON")  # a file that was cut short is read as far as it goes
            if not _needs_recovery(db):
                yield db
                return
        # A writer was killed within a commit. To undo it here would write, so it is undone in a copy.
        with TemporaryDirectory() as folder:
            copy = Path(folder) / self.path.name
            with self._locked(reading=True):
                for suffix in ("", "-journal"):
                    shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
            with closing(_connect(copy, "rw")) as db:
                yield db

    def _columns(self, db: sqlite3.Connection) -> dict[str, str]:
        """SQL type of each column of the file: key, checksum, then the others."""
        columns = {name.decode(): kind.decode() for _, name, kind, *_ in db.execute("PRAGMA table_info(rows)")}
        if columns.keys() >= set(self.schema.required):
            return columns
        if self.path.stat().st_size and db.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            hint = "move it away: a ledger has to be made by darec"
            raise UserError("this SQLite file is no row ledger", where=str(self.path), hint=hint)
        raise _DamageError("it is empty" if not self.path.stat().st_size else "its table is not the one of this ledger")

    def _table(self, names: list[str], rows: list[Row]) -> pl.DataFrame:
        """Rows of the file as a table of the schema; a column that the file lacks is null."""
        cells = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        series = [
            pl.Series(name, cells.get(name, [None] * len(rows)), dtype=_raw(dtype)).cast(dtype)
            for name, dtype in self.schema.items()
        ]
        return pl.DataFrame(series).unique(KEY, keep="first", maintain_order=True)

    # Writing

    def _insert(self, table: pl.DataFrame, *, replace: bool = False, source: str | None = None) -> None:
        """One transaction: `table`, and that these are all rows of the file `source` of version 0.1."""
        with self._writing() as db:
            names = list(self._columns(db))
            for name in self.schema:
                if name not in names:
                    db.execute(f"ALTER TABLE rows ADD COLUMN {_quoted(name)} {_sql_type(self.schema[name])}")
                    names.append(name)
            if not replace:
                _delete_damaged(db, names, table[KEY].to_list())
            others = [pl.lit(None).alias(name) for name in names if name not in self.schema]
            cells = table.with_columns(others).select(KEY, *names[2:])
            verb = "REPLACE" if replace else "IGNORE"
            rows = ((row[0], _checksum(row), *row[1:]) for row in cells.iter_rows())
            db.executemany(f"INSERT OR {verb} INTO rows VALUES ({_places(len(names))})", rows)
            if source is not None:
                db.execute("INSERT OR IGNORE INTO imported VALUES (?)", (source,))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is kept if the block ends well; the file is made if there is none."""
        with self._locked():
            if not _exists(self.path):
                self._create(self.path.with_suffix(".draft"), self._new_columns()).rename(self.path)
                _flush(self.path.parent)
            with closing(_connect(self.path, "rw")) as db:
                db.execute("PRAGMA journal_mode=DELETE")
                db.execute("PRAGMA synchronous=EXTRA")  # after a power cut, too, what was committed is there
                db.execute("PRAGMA secure_delete=ON")  # so that no salvage finds a row that was replaced
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")

    @contextmanager
    def _locked(self, reading: bool = False) -> Iterator[None]:
        """Keeps other processes from writing: SQLite's own locks are on a file's content, not on its name."""
        if not reading:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT
        lock, deadline = os.open(self.path.with_suffix(".lock"), flags, 0o666), time.monotonic() + WAIT
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        what = "another process keeps the ledger locked"
                        raise TransientError(what, where=str(self.path), hint=_TRY) from error
                    time.sleep(0.02)
            yield
        finally:
            os.close(lock)

    def _import(self) -> None:
        """Takes over the files of version 0.1, each in one transaction; they stay where they are."""
        files = parquet_files(self._old_folder)
        if not files:
            return
        with self._writing() as db:
            imported = _imported(db)
        for path in files:
            if path.name not in imported and (rows := parquet_rows(path, self.schema)) is not None:
                self._insert(rows, source=path.name)

    # Damage

    def _rebuild_if_damaged(self) -> bool:
        """Puts what can be read of a damaged file into a new one; whether it was damaged.

        Nothing is done, whatever else may have failed, unless SQLite's own check finds fault with the file's content.
        """
        if not _exists(self.path):
            return False
        with self._locked():
            with closing(_connect(self.path, "rw")) as db:
                try:
                    columns = self._columns(db)
                    fault = db.execute("PRAGMA integrity_check(1)").fetchone()[0].decode()
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    columns, fault = self._new_columns(), str(error)
            if fault == "ok":
                return False
            self._rebuild(columns, fault)
            return True

    def _rebuild(self, columns: dict[str, str], fault: str) -> None:
        draft, kept = self._create(self.path.with_suffix(".draft"), columns), 0
        texts = [kind == "TEXT" for kind in columns.values()]
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=EXTRA")
            db.execute("BEGIN")
            for rows in salvage(self.path, len(columns), _PAGE_BYTES):
                sound = [
                    [
                        cell.decode() if text and cell is not None else cell
                        for cell, text in zip(row, texts, strict=True)
                    ]
                    for row in rows
                    if _is_sound(row)
                ]
                kept += db.executemany(f"INSERT OR IGNORE INTO rows VALUES ({_places(len(columns))})", sound).rowcount
            db.execute("COMMIT")

        # The damaged file keeps a name of its own, with its journal, before the new one takes its place in one step.
        aside = self.path.with_name(f"{self.path.stem}-{time.time_ns()}.damaged")
        os.link(self.path, aside)
        journal = Path(f"{self.path}-journal")
        if _exists(journal):
            journal.rename(f"{aside}-journal")
        draft.replace(self.path)
        _flush(self.path.parent)
        _log.warning(
            "ledger %s was damaged (%s): %s rows were recovered; the damaged file is kept as %s",
            self.path,
            fault,
            f"{kept:,}",
            aside.name,
        )

    def _create(self, path: Path, columns: dict[str, str]) -> Path:
        """An empty ledger at `path`, in place of whatever a killed process left there."""
        path.unlink(missing_ok=True)
        typed = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns.items())
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            db.execute(f"PRAGMA application_id={_APPLICATION}")
            db.execute(f"CREATE TABLE rows ({typed}, PRIMARY KEY ({_quoted(KEY)}))")
            db.execute("CREATE TABLE imported (name TEXT PRIMARY KEY)")
        return path

    def _new_columns(self) -> dict[str, str]:
        others = {name: _sql_type(dtype) for name, dtype in self.schema.items() if name != KEY}
        return {KEY: "TEXT", "checksum": "BLOB"} | others


class _DamageError(sqlite3.DatabaseError):
    """A file that SQLite opens, but that is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is_damage(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _exists(path: Path) -> bool:
    """Whether there is something; unlike `Path.exists`, an error other than absence is an error."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None)
    db.text_factory = bytes  # a damaged text need not be UTF-8, and checksums are over bytes
    return db


def _needs_recovery(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK
    return False


def _imported(db: sqlite3.Connection) -> set[str]:
    return {name.decode(errors="replace") for (name,) in db.execute("SELECT name FROM imported")}


def _look_up(db: sqlite3.Connection, names: list[str], keys: list[str]) -> tuple[list[Row], int]:
    """The sound rows of `keys`, and how many others there are. Pages that cannot be read cost their own rows only."""
    columns = ", ".join(map(_quoted, names))
    query = f"SELECT {columns} FROM rows WHERE key IN ({_places(len(keys))})"
    try:
        rows = db.execute(query, keys).fetchall()
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        if len(keys) == 1:
            return [], 1
        half = len(keys) // 2
        (left, bad), (right, worse) = (_look_up(db, names, part) for part in (keys[:half], keys[half:]))
        return left + right, bad + worse
    sound = [row for row in rows if _is_sound(row)]
    return sound, len(rows) - len(sound)


def _delete_damaged(db: sqlite3.Connection, names: list[str], keys: list[str]) -> None:
    columns = ", ".join(map(_quoted, ["rowid", *names]))
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        rows = db.execute(f"SELECT {columns} FROM rows WHERE key IN ({_places(len(batch))})", batch).fetchall()
        db.executemany("DELETE FROM rows WHERE rowid = ?", [(rowid,) for rowid, *row in rows if not _is_sound(row)])


def _places(count: int) -> str:
    return ", ".join("?" * count)


def _checksum(cells: Sequence[Any]) -> bytes:
    """Of the key and the columns after it. A null adds nothing, so that a column may be added to old rows."""
    parts = [b"%d:%b;" % (number, _as_bytes(cell)) for number, cell in enumerate(cells) if cell is not None]
    return blake2b(b"".join(parts), digest_size=8).digest()


def _as_bytes(cell: str | bytes | float) -> bytes:
    if isinstance(cell, bytes):
        return cell
    return cell.encode() if isinstance(cell, str) else b"%r" % (cell + 0)  # SQLite keeps -0.0 as 0.0


def _is_sound(row: Sequence[Any]) -> bool:
    return row[1] == _checksum((row[0], *row[2:]))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _raw(dtype: pl.DataType) -> pl.DataType:
    """What SQLite's cells of such a column are before they are converted."""
    return {"TEXT": pl.Binary(), "BLOB": pl.Binary(), "REAL": pl.Float64()}.get(_sql_type(dtype), pl.Int64())


def _sql_type(dtype: pl.DataType) -> str:
    if dtype == pl.String:
        return "TEXT"
    if dtype == pl.Binary:
        return "BLOB"
    return "REAL" if dtype.is_float() else "INTEGER"


def _flush(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
