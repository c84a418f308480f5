"""Tables of rows with a checksum each, in SQLite files: opened, made, read, written, and told damaged from unreachable.

Text is read as its UTF-8 bytes: a damaged text need not be UTF-8, and checksums are over bytes.
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
PAGE_BYTES = 8192  # with SQLite's own 4,096 a quarter of each page of vectors would stay empty
BATCH = 8192  # keys looked up by one statement; no lock is held between two statements
WAIT = 60.0  # seconds that a process waits for its turn

_APPLICATION = 0x64617265  # in the file's header: made by darec
_HEADER = {  # what SQLite believes without a check; https://www.sqlite.org/fileformat2.html
    0: b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + bytes([1, 1, 0, 64, 32, 32]),
    44: (4).to_bytes(4, "big"),  # version of the schema's format
    52: bytes(4) + (1).to_bytes(4, "big"),  # no vacuum by itself; text is UTF-8
    64: bytes(4) + _APPLICATION.to_bytes(4, "big"),
}
_SMALLEST = 512  # bytes of the shortest SQLite file; it takes a shorter one for a new database
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_FREE_SPACE = "free space (`darec gc`) and run again: the rows that were kept are safe"
_FIX_RIGHTS = "let this user read and write the store's folder `ledger`, or run as the user who owns it"
_TRY = "run again; nothing was changed, and the rows that were kept are safe"

Row = Sequence[Any]
"""Key, checksum, then the other columns in the order of the file."""


class DamageError(sqlite3.DatabaseError):
    """A file that SQLite can open, but that is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite found fault with a file's content, and did not just fail to reach it."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "unsupported file format" in str(error)


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the operating system refuse into errors that say how to fix it.

    Raises:
        UserError: the file may not be read or written, or the disk is full.
        TransientError: it cannot be reached just now, or another process keeps it locked.
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
    """Whether there is a file; unlike with `Path.exists`, an error other than absence is an error."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "what is there is no regular file")
    return True


# Opening and making files


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a file that is there; `mode` is ro or rw. Transactions are begun and ended by statements."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT, isolation_level=None)
    db.text_factory = bytes
    return db


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a file that is there, kept (through a power cut, too) if the block ends well."""
    with closing(connect(path, "rw")) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA secure_delete=ON")  # so that no salvage finds a row that was replaced
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")


def has_unfinished_commit(db: sqlite3.Connection) -> bool:
    """Whether a writer was killed within a commit, which a connection of mode ro cannot undo."""
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK
    return False


def create(path: Path, columns: dict[str, str]) -> Path:
    """A file without rows at `path`, in place of whatever a killed process left there."""
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
    """SQL type of each column of a new file: key, checksum, then the schema's others."""
    return {KEY: "TEXT", "checksum": "BLOB"} | {name: sql_type(dtype) for name, dtype in schema.items() if name != KEY}


def columns_of(db: sqlite3.Connection, path: Path, schema: TableSchema) -> dict[str, str]:
    """SQL type of each column of a file: key, checksum, then the others.

    Raises:
        DamageError: it was made for these rows and is no longer what it was.
        UserError: it is the database of another program.
    """
    columns = {name.decode(): kind.decode() for _, name, kind, *_ in db.execute("PRAGMA table_info(rows)")}
    if columns.keys() >= set(schema.required):
        return columns
    if path.stat().st_size < _SMALLEST:
        raise DamageError("it is empty or cut short")
    if db.execute("PRAGMA application_id").fetchone() == (_APPLICATION,):
        raise DamageError("its table is not the one of this ledger")
    hint = "move it away: a ledger has to be made by darec"
    raise UserError("this SQLite file is not a row ledger", where=str(path), hint=hint)


def fault_of(db: sqlite3.Connection, path: Path) -> str:
    """What SQLite's own check, and a look at the header, find wrong with a file; nothing if it is sound."""
    with path.open("rb") as file:
        header = file.read(100)
    if any(header[start : start + len(known)] != known for start, known in _HEADER.items()):
        return "its header is not the one that was written"
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0].decode()
    return "" if verdict == "ok" else " ".join(verdict.split())


def add_columns(db: sqlite3.Connection, names: list[str], schema: TableSchema) -> list[str]:
    """Adds the schema's columns that the file lacks; returns the names of all."""
    new = [name for name in schema if name not in names]
    for name in new:
        db.execute(f"ALTER TABLE rows ADD COLUMN {_quoted(name)} {sql_type(schema[name])}")
    return names + new


# Rows


def look_up(
    db: sqlite3.Connection, names: list[str], keys: list[str], columns: list[str]
) -> tuple[list[tuple[Any, ...]], int]:
    """`columns` of the sound rows of `keys`, and how many rows there are beside them.

    A page that cannot be read costs its own rows only. `names` are all columns of the file, which the checksum covers.
    """
    places = [names.index(column) for column in columns]
    sound, others = [], 0
    listed = ", ".join(map(_quoted, names))
    try:
        for row in db.execute(f"SELECT {listed} FROM rows WHERE key IN ({_places(len(keys))})", keys):
            if is_sound(row):
                sound.append(tuple([row[place] for place in places]))
            else:
                others += 1
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if len(keys) == 1:
            return [], 1

        # Damage is found by halving, so that it costs the rows of its page only.
        half = len(keys) // 2
        (left, bad), (right, worse) = (look_up(db, names, part, columns) for part in (keys[:half], keys[half:]))
        return left + right, bad + worse
    return sound, others


def insert(db: sqlite3.Connection, rows: Iterable[Row], width: int, *, replace: bool = False) -> int:
    """Inserts whole rows of `width` cells; returns how many. One whose key is there is dropped unless `replace`."""
    verb = "REPLACE" if replace else "IGNORE"
    return db.executemany(f"INSERT OR {verb} INTO rows VALUES ({_places(width)})", rows).rowcount


def delete_damaged(db: sqlite3.Connection, names: list[str], keys: list[str]) -> None:
    """Deletes those rows of `keys` whose checksum is wrong."""
    columns = ", ".join(map(_quoted, ["rowid", *names]))
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        rows = db.execute(f"SELECT {columns} FROM rows WHERE key IN ({_places(len(batch))})", batch).fetchall()
        db.executemany("DELETE FROM rows WHERE rowid = ?", [(rowid,) for rowid, *row in rows if not is_sound(row)])


def count(db: sqlite3.Connection, column: str, values: Sequence[str | bytes]) -> int:
    """How many rows have one of `values` in `column`."""
    where = f"{_quoted(column)} IN ({_places(len(values))})"
    return db.execute(f"SELECT count(*) FROM rows WHERE {where}", list(values)).fetchone()[0]


def purge(path: Path, column: str, values: Sequence[str | bytes]) -> int:
    """Deletes the rows that have one of `values` in `column`, and rows with a wrong checksum, which may have had one.

    Their bytes are overwritten with zeros, and the file is then written again without its free pages. Returns how many
    rows had one of the values.
    """
    with transaction(path) as db:
        damaged = [(rowid,) for rowid, *row in db.execute("SELECT rowid, * FROM rows") if not is_sound(row)]
        held = count(db, column, values)
        db.execute(f"DELETE FROM rows WHERE {_quoted(column)} IN ({_places(len(values))})", list(values))
        db.executemany("DELETE FROM rows WHERE rowid = ?", damaged)
    with closing(connect(path, "rw")) as db:
        db.execute("PRAGMA secure_delete=ON")
        db.execute("VACUUM")
    return held


def sealed(cells: Row) -> Row:
    """Key and values with the checksum put between."""
    return cells[0], _checksum(cells), *cells[1:]


def is_sound(row: Row) -> bool:
    """Whether a row has the checksum that it was written with."""
    return row[1] == _checksum((row[0], *row[2:]))


def _checksum(cells: Row) -> bytes:
    """Of the key and the columns after it. A null adds nothing, so that a column may be added to old rows."""
    parts = [b"%d:%b;" % (number, _as_bytes(cell)) for number, cell in enumerate(cells) if cell is not None]
    return blake2b(b"".join(parts), digest_size=8).digest()


def _as_bytes(cell: str | bytes | float) -> bytes:
    if isinstance(cell, bytes):
        return cell
    return cell.encode() if isinstance(cell, str) else b"%r" % (cell + 0)  # SQLite keeps -0.0 as 0.0


# Between SQLite and Polars


def as_table(columns: list[str], rows: list[tuple[Any, ...]], schema: TableSchema) -> pl.DataFrame:
    """Cells of a file as a table with the types of the schema, one row per key."""
    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    series = [
        pl.Series(name, values, dtype=_RAW[sql_type(schema[name])]).cast(schema[name])
        for name, values in zip(columns, cells, strict=True)
    ]
    return pl.DataFrame(series).unique(KEY, keep="first", maintain_order=True)


_RAW: dict[str, pl.DataType] = {"TEXT": pl.Binary(), "BLOB": pl.Binary(), "REAL": pl.Float64(), "INTEGER": pl.Int64()}


def sql_type(dtype: pl.DataType) -> str:
    """The type of a SQLite column that holds text, bytes, real or whole numbers of a Polars type."""
    if dtype == pl.String:
        return "TEXT"
    if dtype == pl.Binary:
        return "BLOB"
    return "REAL" if dtype.is_float() else "INTEGER"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _places(count: int) -> str:
    return ", ".join("?" * count)
