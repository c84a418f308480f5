"""Recovers readable rows from a damaged SQLite file."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

_TABLE_LEAF = 0x0D  # first byte of a page that holds rows; https://www.sqlite.org/fileformat2.html


def salvage(path: Path, width: int, page_bytes: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yields the rows of the table `rows` page by page. They are not verified, and a row may be repeated.

    Every page with rows is read as the only page of a table, so that damage to one page does not affect the rows of
    another. The damaged file is only read; the work is done on a copy beside it, with a new first page.

    Args:
        path: the damaged file.
        width: how many columns the table has.
        page_bytes: the size of its pages.
    """
    copy = path.with_suffix(".salvage")
    try:
        shutil.copyfile(path, copy)
        pages = _new_first_page(copy, width, page_bytes)
        if not pages:
            return

        with closing(sqlite3.connect(copy, isolation_level=None)) as db:
            db.text_factory = bytes
            db.execute("PRAGMA journal_mode=OFF")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA writable_schema=ON")

            for page in pages:
                db.execute("UPDATE sqlite_schema SET rootpage=?", (page,))
                db.execute(f"PRAGMA schema_version={page}")  # the schema is read again
                yield _rows_of_page(db)
    finally:
        copy.unlink(missing_ok=True)


def _rows_of_page(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Reads from both ends, because a damaged cell stops the reading of its page."""
    rows: list[tuple[Any, ...]] = []
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            rows.extend(db.execute(f"SELECT * FROM rows ORDER BY rowid {order}"))
            break
    return rows


def _new_first_page(copy: Path, width: int, page_bytes: int) -> list[int]:
    """Replaces the first page by that of a new file with the same table. Returns the numbers of the pages with rows."""
    columns = ", ".join(f"c{number}" for number in range(width))
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f"PRAGMA page_size={page_bytes}")
        db.execute(f"CREATE TABLE rows ({columns})")
        first = bytearray(db.serialize()[:page_bytes])

    with copy.open("r+b") as file:
        count = copy.stat().st_size // page_bytes
        file.truncate(count * page_bytes)
        first[28:32] = count.to_bytes(4, "big")
        first[24:28] = first[92:96] = (1).to_bytes(4, "big")  # marks the preceding page count as valid
        file.write(first)
        leaves = []
        for number in range(2, count + 1):
            file.seek((number - 1) * page_bytes)
            if file.read(1) == bytes([_TABLE_LEAF]):
                leaves.append(number)

    return leaves
