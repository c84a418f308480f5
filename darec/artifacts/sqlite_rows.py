"""SQLite tables whose rows have checksums: opening, creating, reading, writing, and distinguishing damaged from
unreachable files.

Text is read as UTF-8 bytes, because damaged text may not be valid UTF-8 and checksums are over bytes.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from darec.common.errors import DarecError, TransientError, UserError
from schemas.tables import TableSchema

KEY = "key"
PAGE_BYTES = 8192  # with SQLite's default of 4,096, a quarter of each page of vectors would be unused
BATCH = 8192  # number of keys per look-up statement; no lock is held between statements
WAIT = 60.0  # maximum time to wait for a lock, in seconds

_APPLICATION = 0x64617265  # application id in the file's header
_HEADER = {  # header values that SQLite does not check; https://www.sqlite.org/fileformat2.html
    0: b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + bytes([1, 1, 0, 64, 32, 32]),
    44: (4).to_bytes(4, "big"),  # version of the schema's format
    52: bytes(4) + (1).to_bytes(4, "big"),  # no automatic vacuum; text is UTF-8
    64: bytes(4) + _APPLICATION.to_bytes(4, "big"),
}
_SMALLEST = 512  # bytes of the smallest SQLite file; SQLite treats a smaller one as a new database
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_FREE_SPACE = "free space (`darec gc`) and run again: no row is lost"
_FIX_RIGHTS = "let this user read and write the store's folder `ledger`, or run as the user who owns it"
_TRY = "run again; nothing was changed, and no row is lost"

Row = Sequence[Any]
"""Key, checksum, then the other columns in the order of the file."""


class DamageError(sqlite3.DatabaseError):
    """A file that SQLite can open but whose content is damaged."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite reports damaged content, as opposed to an inaccessible file."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "unsupported file format" in str(error)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Converts errors of SQLite and of the operating system into errors with hints.

    Raises:
        UserError: permissions are missing, or the disk is full.
        TransientError: it is temporarily inaccessible, or another process keeps it locked.
    """
    where = str(path)
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
            case sqlite3.SQLITE_CANTOPEN if not os.access(path, os.R_OK):
                raise UserError("the ledger may not be read", where=where, hint=_FIX_RIGHTS) from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise DarecError(f"the ledger is damaged ({error})", where=where, hint="run again") from error
            case _:
                what = f"the ledger cannot be used just now ({error})"
                raise TransientError(what, where=where, hint=_TRY) from error


def exists(path: Path) -> bool:
    """Whether the file exists. Unlike `Path.exists`, it raises errors other than absence."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "it is not a regular file")
    return True


# Opening and making files


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens an existing file; `mode` is ro or rw. Transactions are started and ended explicitly."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None)
    db.text_factory = bytes
    return db


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on an existing file, which is committed durably if the block ends without an error."""
    with closing(connect(path, "rw")) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA secure_delete=ON")  # so that salvage cannot find a replaced row
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")


def has_unfinished_commit(db: sqlite3.Connection) -> bool:
    """Whether a writer was killed during a commit, which a read-only connection cannot roll back."""
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK
    return False


def create(path: Path, columns: dict[str, str]) -> Path:
    """Creates a file without rows at `path`, replacing leftovers of a killed process."""
    for suffix in ("", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    typed = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns.items())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        db.execute(f"PRAGMA application_id={_APPLICATION}")
        db.execute(f"CREATE TABLE rows ({typed}, PRIMARY KEY ({KEY}))")
        db.execute("CREATE TABLE imported (name TEXT PRIMARY KEY)")

    return path


def columns_for(schema: TableSchema) -> dict[str, str]:
    """SQL type of each column of a new file: key, checksum, then the other columns of the schema."""
    return {KEY: "TEXT", "checksum": "BLOB"} | {name: sql_type(dtype) for name, dtype in schema.items() if name != KEY}


def columns_of(db: sqlite3.Connection, path: Path, schema: TableSchema) -> dict[str, str]:
    """SQL type of each column of an existing file: key, checksum, then the others.

    Raises:
        DamageError: it is a ledger, but its table is damaged.
        UserError: it is the database of another program.
    """
    columns = {name.decode(): kind.decode() for _, name, kind, *_ in db.execute("PRAGMA table_info(rows)")}
    if columns.keys() >= set(schema.required):
        return columns
    if path.stat().st_size < _SMALLEST:
        raise DamageError("it is empty or truncated")
    if db.execute("PRAGMA application_id").fetchone() == (_APPLICATION,):
        raise DamageError("its table does not match the schema of this ledger")
    hint = "move it away: a ledger must be created by darec"
    raise UserError("this SQLite file is not a row ledger", where=str(path), hint=hint)


def problem_of(db: sqlite3.Connection, path: Path) -> str:
    """The problem that SQLite's own check or the header shows; empty if the file is intact."""
    with path.open("rb") as file:
        header = file.read(100)
    if any(header[start : start + len(known)] != known for start, known in _HEADER.items()):
        return "its header is damaged"
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0].decode()
    return "" if verdict == "ok" else " ".join(verdict.split())


def add_columns(db: sqlite3.Connection, names: list[str], schema: TableSchema) -> list[str]:
    """Adds missing columns of the schema to the file. Returns the names of all columns."""
    new = [name for name in schema if name not in names]
    for name in new:
        db.execute(f"ALTER TABLE rows ADD COLUMN {_quoted(name)} {sql_type(schema[name])}")
    return names + new


# Rows


def look_up(
    db: sqlite3.Connection, names: list[str], keys: list[str], columns: list[str]
) -> tuple[list[tuple[Any, ...]], int]:
    """`columns` of the intact rows of `keys`, and the number of damaged rows.

    An unreadable page affects its own rows only. `names` are all columns of the file, which the checksum covers.
    """
    places = [names.index(column) for column in columns]
    sound, others = [], 0
    listed = ", ".join(map(_quoted, names))
    try:
        for row in db.execute(f"SELECT {listed} FROM rows WHERE key IN ({_places(len(keys))})", keys):
            if is_intact(row):
                sound.append(tuple([row[place] for place in places]))
            else:
                others += 1
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if len(keys) == 1:
            return [], 1

        # Damage is located by bisection, so that only the rows of its page are lost.
        half = len(keys) // 2
        (left, bad), (right, worse) = (look_up(db, names, part, columns) for part in (keys[:half], keys[half:]))
        return left + right, bad + worse

    return sound, others


def insert(db: sqlite3.Connection, rows: Iterable[Row], width: int, *, replace: bool = False) -> int:
    """Inserts complete rows of `width` cells and returns their number. Rows with existing keys are ignored unless
    `replace`.
    """
    verb = "REPLACE" if replace else "IGNORE"
    return db.executemany(f"INSERT OR {verb} INTO rows VALUES ({_places(width)})", rows).rowcount


def delete_damaged(db: sqlite3.Connection, names: list[str], keys: list[str]) -> None:
    """Deletes the rows of `keys` that have a wrong checksum."""
    columns = ", ".join(map(_quoted, ["rowid", *names]))
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        rows = db.execute(f"SELECT {columns} FROM rows WHERE key IN ({_places(len(batch))})", batch).fetchall()
        db.executemany("DELETE FROM rows WHERE rowid = ?", [(rowid,) for rowid, *row in rows if not is_intact(row)])


def count(db: sqlite3.Connection, column: str, values: Sequence[str | bytes]) -> int:
    """The number of rows with one of `values` in `column`."""
    where = f"{_quoted(column)} IN ({_places(len(values))})"
    return db.execute(f"SELECT count(*) FROM rows WHERE {where}", list(values)).fetchone()[0]


def purge(path: Path, column: str, values: Sequence[str | bytes]) -> int:
    """Deletes the rows with one of `values` in `column`, and rows with a wrong checksum, which may have contained one.

    Their bytes are overwritten with zeros, and the file is rewritten without free pages. Returns the number of rows
    with one of the values.
    """
    with transaction(path) as db:
        damaged = [(rowid,) for rowid, *row in db.execute("SELECT rowid, * FROM rows") if not is_intact(row)]
        held = count(db, column, values)
        db.execute(f"DELETE FROM rows WHERE {_quoted(column)} IN ({_places(len(values))})", list(values))
        db.executemany("DELETE FROM rows WHERE rowid = ?", damaged)

    with closing(connect(path, "rw")) as db:
        db.execute("PRAGMA secure_delete=ON")
        db.execute("VACUUM")

    return held


def with_checksum(cells: Row) -> Row:
    """The row with the checksum inserted after the key."""
    return cells[0], _checksum(cells), *cells[1:]


def is_intact(row: Row) -> bool:
    """Whether the checksum of a row is correct."""
    return row[1] == _checksum((row[0], *row[2:]))


def _checksum(cells: Row) -> bytes:
    """The checksum of the key and the columns after it. Nulls do not contribute, so that columns can be added to old
    rows.
    """
    parts = [b"%d:%b;" % (number, _as_bytes(cell)) for number, cell in enumerate(cells) if cell is not None]
    return blake2b(b"".join(parts), digest_size=8).digest()


def _as_bytes(cell: str | bytes | float) -> bytes:
    if isinstance(cell, bytes):
        return cell
    return cell.encode() if isinstance(cell, str) else b"%r" % (cell + 0)  # SQLite stores -0.0 as 0.0


# Between SQLite and Polars


def as_table(columns: list[str], rows: list[tuple[Any, ...]], schema: TableSchema) -> pl.DataFrame:
    """The cells of rows as a table with the types of the schema, one row per key."""
    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    series = [
        pl.Series(name, values, dtype=_RAW[sql_type(schema[name])]).cast(schema[name])
        for name, values in zip(columns, cells, strict=True)
    ]
    return pl.DataFrame(series).unique(KEY, keep="first", maintain_order=True)


_RAW: dict[str, pl.DataType] = {"TEXT": pl.Binary(), "BLOB": pl.Binary(), "REAL": pl.Float64(), "INTEGER": pl.Int64()}


def sql_type(dtype: pl.DataType) -> str:
    """The SQLite type of a column of texts, bytes, floats or integers of a Polars type."""
    if dtype == pl.String:
        return "TEXT"
    if dtype == pl.Binary:
        return "BLOB"
    return "REAL" if dtype.is_float() else "INTEGER"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _places(count: int) -> str:
    return ", ".join("?" * count)
