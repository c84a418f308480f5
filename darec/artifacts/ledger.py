"""The row ledger: the results for single rows, by the hash of their inputs.

A ledger is one SQLite file: SQLite needs no additional package, writes rows faster than an LLM generates them, and
reports a damaged or missing page, whereas LMDB ends the process. It uses the rollback journal and not the write-ahead
log, so that readers write nothing and a copy of the file is a backup.

Every row has a checksum over its key and values. A row with a wrong checksum or an unreadable page counts as missing
and is never returned. If two rows have the same key, the older one is used, unless the newer one was appended to
replace it. Any number of processes may read and append concurrently.

If several machines share the store (`darec.artifacts.shared`), the file is this machine's copy of the rows of all
machines (`darec.artifacts.segments`).
"""

import fcntl
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

import polars as pl

from darec.artifacts import parquet_ledger
from darec.artifacts import sqlite_rows as sql
from darec.artifacts.parquet_ledger import parquet_files, parquet_rows
from darec.artifacts.salvage import salvage
from darec.artifacts.segments import Segments
from darec.artifacts.shared import shared_store
from darec.artifacts.sqlite_rows import KEY
from darec.artifacts.tables import conform
from darec.common.errors import TransientError
from darec.common.files import flush
from darec.common.warnings import warn_once
from schemas.tables import TableSchema


def row_key(*parts: bytes) -> str:
    """The key of a row from everything that determines it: 32 hex digits."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@dataclass
class Survey:
    """The result of looking up keys: the rows that were found, the missing keys, and the damage."""

    missing: pl.Series
    """The distinct keys without an intact row, in order."""
    rows: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The intact rows, one per key, in no particular order: the key and the requested columns."""
    damaged_rows: int = 0
    """Number of keys whose row cannot be read or has a wrong checksum."""
    faults: list[str] = field(default_factory=list)
    """Descriptions of damage beyond single rows."""

    @property
    def damage(self) -> str:
        """All damage in one line; empty if there is none."""
        rows = [f"{self.damaged_rows:,} rows are damaged"] if self.damaged_rows else []
        return "; ".join([*self.faults, *rows])


class Ledger:
    """Rows of `schema` (which has the column `key`) in the SQLite file `path`, created with the first row.

    Columns hold text, bytes, integers or floats. A nullable column may be added to the schema later.

    `survey`, `look_up`, `missing` and `get` change nothing on disk. Rows of version 0.1, which are Parquet files in a
    folder with the file's name without its suffix, are read as well, and imported with `repair`.

    Every method raises UserError if permissions are missing or the disk is full, and TransientError if the file cannot
    be read temporarily or another process keeps it locked.
    """

    def __init__(self, path: Path, schema: TableSchema) -> None:
        self.path, self.schema = path, schema
        shared = shared_store(path.parent.parent)
        self._segments = Segments(shared, path.stem, schema) if shared else None
        self._followed = False

    def survey(self, keys: pl.Series, columns: Sequence[str] = ()) -> Survey:
        """Looks up each of `keys` once: the intact rows with `columns`, and the keys without one."""
        wanted = keys.unique(maintain_order=True).rename(KEY)
        survey, names = Survey(wanted), [KEY, *columns]
        with sql.explained(self.path):
            found = list(self._sound_rows(wanted, names, survey))
        survey.rows = pl.concat([pl.DataFrame(schema={name: self.schema[name] for name in names}), *found])
        if survey.rows.height:
            survey.missing = wanted.filter(~wanted.is_in(survey.rows[KEY].implode()))
        return survey

    def look_up(self, keys: pl.Series, columns: Sequence[str] = (), *, repair: bool = False) -> Survey:
        """Like `survey`, for a caller that generates the missing rows: damage is logged.

        Args:
            keys: the keys to look up.
            columns: the columns of their rows to return, in addition to the key.
            repair: True if the caller appends the missing rows. Rows of version 0.1 are imported and the readable rows
                of a damaged file are recovered before any row counts as missing.
        """
        with sql.explained(self.path):
            if repair:
                self._import()
            survey = self.survey(keys, columns)
            if repair and len(survey.missing) and self._rebuild_if_damaged():
                survey = self.survey(keys, columns)

        if survey.damage:
            warn_once(f"ledger {self.path}: {survey.damage}; the affected rows have to be generated again")
        return survey

    def missing(self, keys: pl.Series, *, repair: bool = False) -> pl.Series:
        """The distinct `keys` without an intact row, in order; see `look_up`."""
        return self.look_up(keys, repair=repair).missing

    def get(self, keys: pl.Series, columns: Sequence[str] = ()) -> pl.DataFrame:
        """The intact rows of `keys`, one per key, in no particular order: key and `columns`, or all columns."""
        return self.survey(keys, columns or [name for name in self.schema if name != KEY]).rows

    def rows(self, keys: pl.Series, columns: Sequence[str] = ()) -> pl.DataFrame:
        """The rows of `keys` in their order, repeated for repeated keys: key and `columns`, or all columns.

        Raises:
            TransientError: a row is missing or damaged.
        """
        found = self.get(keys, columns)
        if lacking := keys.n_unique() - found.height:
            what = f"{lacking:,} rows of the ledger cannot be read any more"
            raise TransientError(what, where=str(self.path), hint="run again: they are generated again")
        return keys.rename(KEY).to_frame().join(found, on=KEY, how="left", maintain_order="left")

    def append(self, rows: pl.DataFrame, *, replace: bool = False) -> None:
        """Appends `rows`, which survive a kill and a power failure once this returns.

        Args:
            rows: the columns of the schema; nullable columns may be omitted.
            replace: whether a row replaces an existing row with the same key. Otherwise the existing row is kept,
                unless it is damaged.
        """
        if rows.is_empty():
            return

        table = self._conformed(rows)
        with sql.explained(self.path):
            if self._segments:
                self._segments.keep(table, replace=replace)
            try:
                self._insert(table, replace=replace)
            except sqlite3.DatabaseError:
                if not self._rebuild_if_damaged():
                    raise
                self._insert(table, replace=replace)

    def _conformed(self, rows: pl.DataFrame) -> pl.DataFrame:
        absent = [pl.lit(None, self.schema[name]).alias(name) for name in self.schema.nullable - set(rows.columns)]
        complete = rows.with_columns(absent)
        typed = [pl.col(name).cast(dtype) for name, dtype in self.schema.items() if name in complete.columns]
        return conform(complete.select(typed).fill_nan(None), self.schema, str(self.path))  # SQLite has no NaN

    # Forgetting

    def holding(self, column: str, values: Sequence[str | bytes]) -> int:
        """Number of rows of the file with one of `values` in `column`; 0 if it is too damaged to be searched."""
        with sql.explained(self.path):
            self._follow()
            if not values or not sql.exists(self.path):
                return 0
            try:
                with self._reading() as db:
                    return sql.count(db, column, values)
            except sqlite3.DatabaseError as error:
                if not sql.is_damage(error):
                    raise
                return 0

    def beside(self, column: str, values: Sequence[str | bytes]) -> list[Path]:
        """The files beside the ledger that may contain such rows: damaged files that were set aside, incomplete files,
        and files of version 0.1.
        """
        stem = self.path.stem
        with sql.explained(self.path):
            names = (f"{stem}-*.damaged*", f"{stem}.draft*", f"{stem}.salvage*")
            aside = [path for name in names for path in sorted(self.path.parent.glob(name))]
            old = [path for path in parquet_files(self._old_folder) if parquet_ledger.holds(path, column, values)]
            return aside + old

    def forget(self, column: str, values: Sequence[str | bytes]) -> int:
        """Removes the rows with one of `values` in `column` from every file of the ledger, and returns their number.

        Rows with a wrong checksum and damaged files that were set aside are removed too. The bytes are no longer in the
        files when this returns. After a kill, a second call completes the removal.
        """
        with sql.explained(self.path):
            removed = 0
            if self._segments:
                self._segments.forget(column, values)
            if sql.exists(self.path):
                self._rebuild_if_damaged()
                with self._locked(os.O_RDWR | os.O_CREAT):
                    removed = sql.purge(self.path, column, values)
            for path in self.beside(column, values):
                if path.suffix == ".parquet":
                    parquet_ledger.purge(path, column, values)
                else:
                    path.unlink()
            return removed

    # Reading

    def _sound_rows(self, keys: pl.Series, columns: list[str], survey: Survey) -> Iterator[pl.DataFrame]:
        """Yields `columns` (with the key) of the intact rows of `keys`, one per key, in batches. Records damage in
        `survey`.
        """
        self._follow()
        found, imported = [keys.clear()], set[str]()
        if sql.exists(self.path):
            with self._reading() as db:
                try:
                    names, imported = list(sql.columns_of(db, self.path, self.schema)), _imported(db)
                except sqlite3.DatabaseError as error:
                    if not sql.is_damage(error):
                        raise
                    survey.faults.append(f"the file is damaged ({error})")
                    names = []
                held = [name for name in columns if name in names]
                absent = [pl.lit(None, self.schema[name]).alias(name) for name in columns if name not in names]
                for start in range(0, len(keys) if names else 0, sql.BATCH):
                    rows, damaged = sql.look_up(db, names, keys[start : start + sql.BATCH].to_list(), held)
                    survey.damaged_rows += damaged
                    table = sql.as_table(held, rows, self.schema).with_columns(absent).select(columns)
                    found.append(table[KEY])
                    yield table

        not_imported = [path for path in parquet_files(self._old_folder) if path.name not in imported]
        if not not_imported:
            return

        # A set of the remaining keys costs time in proportion to the rows of each file, not to all keys.
        left = set(keys).difference(pl.concat(found))
        for path in not_imported:
            rows = parquet_rows(path, self.schema)
            if rows is None:
                survey.faults.append(f"{path.name} of version 0.1 is damaged")
                continue
            once = rows.select(columns).unique(KEY, keep="first")
            table = once.filter(pl.Series([key in left for key in once[KEY]], dtype=pl.Boolean))
            left.difference_update(table[KEY])
            yield table

    @property
    def _old_folder(self) -> Path:
        return self.path.with_suffix("")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(sql.connect(self.path, "ro")) as db:
            db.execute("PRAGMA writable_schema=ON")  # a truncated file is read up to its end
            if not sql.has_unfinished_commit(db):
                yield db
                return
        # Undoing that commit in place would write to the file, so it is undone in a copy.
        with TemporaryDirectory() as folder:
            copy = Path(folder) / self.path.name
            with self._locked(os.O_RDONLY):
                for suffix in ("", "-journal"):
                    shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
            with closing(sql.connect(copy, "rw")) as db:
                yield db

    # Writing

    def _insert(self, table: pl.DataFrame, *, replace: bool = False, source: str | None = None) -> None:
        """Appends `table` in one transaction, which also records that these are all rows of the version 0.1 file
        `source`.
        """
        with self._writing() as db:
            names = sql.add_columns(db, list(sql.columns_of(db, self.path, self.schema)), self.schema)
            if not replace:
                sql.delete_damaged(db, names, table[KEY].to_list())
            unknown = [pl.lit(None).alias(name) for name in names if name not in self.schema]
            cells = table.with_columns(unknown).select(KEY, *names[2:])
            sql.insert(db, map(sql.with_checksum, cells.iter_rows()), len(names), replace=replace)
            if source is not None:
                db.execute("INSERT OR IGNORE INTO imported VALUES (?)", (source,))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction on the file, which is created if it does not exist."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(os.O_RDWR | os.O_CREAT):
            if not sql.exists(self.path):
                self._move_journal(self._name_aside())
                sql.create(self._draft, sql.columns_for(self.schema)).rename(self.path)
                flush(self.path.parent)
            with sql.transaction(self.path) as db:
                yield db

    @property
    def _draft(self) -> Path:
        return self.path.with_suffix(".draft")

    @contextmanager
    def _locked(self, flags: int) -> Iterator[None]:
        """Excludes other writers. SQLite's own locks belong to the content of a file and not to its path."""
        lock, deadline = os.open(self.path.with_suffix(".lock"), flags, 0o666), time.monotonic() + sql.WAIT
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        hint = "run again when the other run has finished; no row is lost"
                        what = "another process keeps the ledger locked"
                        raise TransientError(what, where=str(self.path), hint=hint) from error
                    time.sleep(0.02)
            yield
        finally:
            os.close(lock)

    def _import(self) -> None:
        """Imports the files of version 0.1, each in one transaction; the files are kept."""
        self._followed = False
        files = parquet_files(self._old_folder)
        if not files:
            return

        with self._writing() as db:
            imported = _imported(db)
        for path in files:
            if path.name not in imported and (rows := parquet_rows(path, self.schema)) is not None:
                self._insert(rows, source=path.name)

    def _follow(self) -> None:
        """Imports the rows that other machines have appended since the last call, if the ledger is shared."""
        if self._segments is None or self._followed:
            return

        self._segments.send()
        held = self._held()
        there = self._segments.names()
        if held - set(there):  # rows were removed
            with self._locked(os.O_RDWR | os.O_CREAT):
                self.path.unlink(missing_ok=True)
                self._move_journal(self._name_aside())
            held = set()

        for name, rows, replace in self._segments.fetch([name for name in there if name not in held]):
            self._insert(self._conformed(rows), replace=replace, source=name)
        self._followed = True

    def _held(self) -> set[str]:
        """The segments whose rows are in the file."""
        if not sql.exists(self.path):
            return set()
        try:
            with self._reading() as db:
                return _imported(db)
        except sqlite3.DatabaseError as error:
            if not sql.is_damage(error):
                raise
            return set()

    # Damage

    def _rebuild_if_damaged(self) -> bool:
        """Recovers the readable rows of a damaged file into a new one. Returns whether it was damaged.

        Nothing is done unless SQLite's own check finds errors in the file.
        """
        if not sql.exists(self.path):
            return False
        with self._locked(os.O_RDWR | os.O_CREAT):
            columns, fault = self._check()
            if fault:
                self._rebuild(columns, fault)
            return bool(fault)

    def _check(self) -> tuple[dict[str, str], str]:
        """The file's columns, as far as they can be read, and a description of its damage."""
        with closing(sql.connect(self.path, "rw")) as db:
            try:
                db.execute("PRAGMA journal_mode=DELETE")
                return sql.columns_of(db, self.path, self.schema), sql.problem_of(db, self.path)
            except sqlite3.DatabaseError as error:
                if not sql.is_damage(error):
                    raise
                return sql.columns_for(self.schema), str(error)

    def _rebuild(self, columns: dict[str, str], fault: str) -> None:
        texts = [kind == "TEXT" for kind in columns.values()]
        draft, kept = sql.create(self._draft, columns), 0
        with sql.transaction(draft) as db:
            for rows in salvage(self.path, len(columns), sql.PAGE_BYTES):
                sound = (
                    [
                        cell.decode() if text and cell is not None else cell
                        for cell, text in zip(row, texts, strict=True)
                    ]
                    for row in rows
                    if sql.is_intact(row)
                )
                kept += sql.insert(db, sound, len(columns))

        # The damaged file is linked to its new name before the new file replaces it in one rename.
        aside = self._name_aside()
        os.link(self.path, aside)
        self._move_journal(aside)
        draft.replace(self.path)
        flush(self.path.parent)
        what = f"ledger {self.path} was damaged ({fault}): {kept:,} rows were recovered"
        warn_once(f"{what}; the damaged file is kept as {aside.name}")

    def _name_aside(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-{time.time_ns()}.damaged")

    def _move_journal(self, aside: Path) -> None:
        """A leftover journal would be rolled back into the next file of the same name."""
        journal = Path(f"{self.path}-journal")
        if sql.exists(journal):
            journal.rename(f"{aside}-journal")


def _imported(db: sqlite3.Connection) -> set[str]:
    """Names of the files of version 0.1 whose rows are in the file."""
    return {name.decode(errors="replace") for (name,) in db.execute("SELECT name FROM imported")}
