"""SQLite in two journal modes and LMDB as the store of the row ledger: rows per second, size, and effect of damage.

    pip install lmdb
    python -m benchmarks.ledger_stores /some/folder --rows 1000000

Prints the table of docs/studies.md. Every row has a checksum, which is computed when it is appended and verified on
look-up.
"""

import argparse
import importlib
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

Row = tuple[bytes, bytes]  # key, value
CUT, FLIPPED = "cut in half", "20 flipped bytes"


class Store(Protocol):
    """The operations that the ledger needs."""

    def append(self, rows: list[Row]) -> None:
        """Appends rows durably."""
        ...

    def look_up(self, keys: list[bytes]) -> int:
        """The number of keys with an intact row."""
        ...


class Sqlite:
    """As in `darec.artifacts.sqlite_rows`, with a connection for each append."""

    def __init__(self, folder: Path, journal: str) -> None:
        self.path, self.journal = folder / "rows.sqlite", journal
        with closing(self._connect()) as db:
            db.execute("CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, checksum BLOB, value BLOB)")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("PRAGMA page_size=8192")
        db.execute(f"PRAGMA journal_mode={self.journal}")
        db.execute("PRAGMA synchronous=EXTRA")
        return db

    def append(self, rows: list[Row]) -> None:
        """One transaction."""
        with closing(self._connect()) as db:
            db.execute("BEGIN IMMEDIATE")
            sealed = ((key.decode(), checksum(key, value), value) for key, value in rows)
            db.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", sealed)
            db.execute("COMMIT")

    def look_up(self, keys: list[bytes]) -> int:
        """One statement."""
        with closing(self._connect()) as db:
            query = f"SELECT * FROM rows WHERE key IN ({', '.join('?' * len(keys))})"
            found = db.execute(query, [key.decode() for key in keys])
            return sum(seal == checksum(key.encode(), value) for key, seal, value in found)


class Lmdb:
    """One durable transaction for each append; values follow their checksum."""

    def __init__(self, folder: Path) -> None:
        self.environment = importlib.import_module("lmdb").open(str(folder), map_size=2**36)

    def append(self, rows: list[Row]) -> None:
        """One transaction."""
        with self.environment.begin(write=True) as transaction:
            for key, value in rows:
                transaction.put(key, checksum(key, value) + value, overwrite=False)

    def look_up(self, keys: list[bytes]) -> int:
        """Looks keys up in one transaction, in sorted order."""
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            return sum(cell[:8] == checksum(key, cell[8:]) for key, cell in cursor.getmulti(sorted(keys)))


STORES: dict[str, Any] = {
    "SQLite, rollback journal": partial(Sqlite, journal="DELETE"),
    "SQLite, write-ahead log": partial(Sqlite, journal="WAL"),
    "LMDB": Lmdb,
}
VALUES = {"profile": (100, 2048), "vector": (384 * 4, 1024)}  # bytes per row, rows per large chunk


def checksum(key: bytes, value: bytes) -> bytes:
    """A checksum of eight bytes (BLAKE2)."""
    return blake2b(key + value, digest_size=8).digest()


def rows_of(size: int, count: int) -> Iterator[Row]:
    """Rows with random keys and values, the same for every store."""
    chance = random.Random(0)
    for _ in range(count):
        yield chance.randbytes(16).hex().encode(), chance.randbytes(size)


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows; the last one may be shorter."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def append_rate(store: Store, rows: Iterable[Row], size: int) -> float:
    """Appended rows per second, in chunks, without the time for generating rows."""
    count, seconds = 0, 0.0
    for chunk in chunks(rows, size):
        started = time.perf_counter()
        store.append(chunk)
        seconds += time.perf_counter() - started
        count += len(chunk)
    return count / seconds


def look_up_rate(store: Store, keys: list[bytes]) -> float:
    """Looked-up rows per second, in random order, 8,192 at a time."""
    random.Random(1).shuffle(keys)
    started = time.perf_counter()
    found = sum(store.look_up(keys[start : start + 8192]) for start in range(0, len(keys), 8192))
    assert found == len(keys)
    return len(keys) / (time.perf_counter() - started)


def damage(folder: Path, kind: str) -> None:
    """Damages the store's largest file."""
    path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    if kind == CUT:
        del content[len(content) // 2 :]
    else:
        chance = random.Random(2)
        for _ in range(20):
            content[chance.randrange(8192, len(content))] ^= 0xFF

    path.write_bytes(content)


def outcome(folder: Path, name: str, size: int, count: int) -> str:
    """The result of looking up all rows individually in a damaged store, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.ledger_stores", str(folder), "--probe", name]
    done = subprocess.run([*command, str(size), str(count)], capture_output=True, text=True, check=False)
    return f"ended by signal {-done.returncode}" if done.returncode < 0 else done.stdout.strip()


def probe(folder: Path, name: str, size: int, count: int) -> None:
    """Prints the number of readable rows."""
    try:
        store, found, errors = STORES[name](folder), 0, 0
    except Exception as error:
        print(f"refused: {error}")
        return

    for key, _ in rows_of(size, count):
        try:
            found += store.look_up([key])
        except Exception:
            errors += 1

    print(f"{found:,} of {count:,} rows, errors for {errors:,}")


def measure(folder: Path, count: int) -> None:
    """Prints one line for each store and kind of row."""
    print(f"| store | row | rows/s appended by 64 | by 1,024 or 2,048 | looked up | MB | {CUT} | {FLIPPED} |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, (size, large) in VALUES.items():
        for name, make in STORES.items():
            place = folder / "store"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            small = append_rate(make(place), rows_of(size, count // 50), 64)
            shutil.rmtree(place)
            place.mkdir()

            store = make(place)
            rate = append_rate(store, rows_of(size, count), large)
            megabytes = sum(path.stat().st_blocks for path in place.iterdir()) * 512 / 1e6
            looked_up = look_up_rate(store, [key for key, _ in rows_of(size, count)])
            del store
            figures = f"{small:,.0f} | {rate:,.0f} | {looked_up:,.0f} | {megabytes:,.0f}"

            answers = []
            for fault in (CUT, FLIPPED):
                shutil.rmtree(place)
                place.mkdir()
                append_rate(make(place), rows_of(size, 20_000), large)
                damage(place, fault)
                answers.append(outcome(place, name, size, 20_000))
            print(f"| {name} | {kind} | {figures} | {' | '.join(answers)} |", flush=True)

    shutil.rmtree(folder / "store")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--probe", nargs=3)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(arguments.folder, arguments.probe[0], *map(int, arguments.probe[1:]))
    else:
        measure(arguments.folder, arguments.rows)
