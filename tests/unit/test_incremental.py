"""Incremental reads, whatever is added to a table and when."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.common.errors import UserError
from darec.dataset.connections import Since, TableConnection
from darec.dataset.copies import copy_of
from darec.dataset.forgetting import CopiesOfPerson
from darec.dataset.incremental import read_new, read_whole, rows_of, since_of
from schemas.copies import CopyRecord
from schemas.places import DeltaTable


class InMemory(TableConnection):
    """A table of whole numbers: `at`, and `value`."""

    def __init__(self) -> None:
        self.table: list[tuple[Any, Any]] = []
        self.types: list[Any] = [pl.Int64, pl.Int64]

    def state(self) -> None:
        return None

    @contextmanager
    def rows(self, since: Since | None = None) -> Iterator[pa.RecordBatchReader]:
        rows = [row for row in self.table if since is None or row[0] >= since.value]
        frame = pl.DataFrame(rows, schema=dict(zip(["at", "value"], self.types, strict=True)), orient="row")
        yield frame.to_arrow().to_reader(max_chunksize=3)


def append(source: InMemory, section: DeltaTable, folder: Path) -> list[Path]:
    """One night; returns the parts of the copy."""
    before = sorted(folder.glob("*/part-*.parquet"))[-100:]
    newest = max((path.parent for path in before), default=None)
    parts = sorted(newest.glob("part-*.parquet")) if newest else []
    draft = folder / f"{len(list(folder.iterdir())):03d}"
    draft.mkdir()
    since = since_of(section, parts)
    done = (
        read_whole(source, section, draft, parts, "test")
        if since is None
        else read_new(source, section, since, draft, parts, "test")
    )
    if not done.changed:
        for path in draft.iterdir():
            path.unlink()
        draft.rmdir()
        return parts
    return sorted(draft.glob("part-*.parquet"))


value = st.integers(0, 2) | st.none()
arrivals = st.lists(st.lists(st.tuples(st.integers(-3, 4), value), max_size=5), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(nights=arrivals)
def test_rows_that_arrive_within_the_lag_are_all_there_and_none_twice(nights):
    """Each row comes at most 3 before the newest of the nights before, which the lag covers."""
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at", lag=3)
    with tempfile.TemporaryDirectory() as folder:
        newest = 0
        for night in nights:
            source.table += [(newest + offset, content) for offset, content in night]
            newest = max([newest, *(at for at, _ in source.table)])
            source.table.sort(key=str)  # a database promises no order
            parts = append(source, section, Path(folder))
            found = pl.concat([pl.read_parquet(part) for part in parts]).rows() if parts else []
            assert Counter(found) == Counter(source.table)


@settings(max_examples=20, deadline=None)
@given(nights=arrivals)
def test_with_a_key_the_newest_row_of_each_is_there(nights):
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at", key=("value",))
    with tempfile.TemporaryDirectory() as folder:
        clock, latest = 0, {}
        for night in nights:
            for _, content in night:
                clock += 1
                source.table.append((clock, content))
                latest[content] = clock
            parts = append(source, section, Path(folder))
            found = pl.concat([pl.read_parquet(part) for part in parts]).rows() if parts else []
            assert sorted(found, key=str) == sorted(((at, content) for content, at in latest.items()), key=str)


def test_many_small_parts_become_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr("darec.dataset.incremental._MOST_PARTS", 3)
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at")
    counts = []
    for night in range(6):
        source.table.append((night, night))
        counts.append(len(append(source, section, tmp_path)))
    assert counts == [1, 2, 3, 1, 2, 3]
    assert source.table == sorted(pl.read_parquet(sorted(tmp_path.glob("005/*.parquet"))).rows())


@pytest.mark.parametrize("key", [(), ("value",)])
@pytest.mark.parametrize("kind", [pl.Int64, pl.String], ids=str)
def test_types_may_become_wider_at_the_source(kind, key, tmp_path):
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at", key=key)
    source.types = [pl.Int32, pl.Int32]
    source.table = [(1, 1), (2, 2), (3, None)]
    append(source, section, tmp_path)
    source.types = [pl.Int64, kind]
    for night in (4, 5):
        source.table = [*((at, value and str(value)) for at, value in source.table), (night, "2")]
        source.table = [(at, value and pl.Series([value]).cast(kind).item()) for at, value in source.table]
        parts = append(source, section, tmp_path)
    expected = [(1, 1), (3, None), (5, 2)] if key else [(1, 1), (2, 2), (3, None), (4, 2), (5, 2)]
    found = rows_of(parts).sort("at").with_columns(pl.col("value").cast(pl.Int64)).collect()
    assert found.rows() == expected


@pytest.mark.parametrize(
    ("types", "row", "name"),
    [
        ([pl.String, pl.Int64], ("2", 2), "at"),
        ([pl.Int64, pl.Datetime], (2, datetime(2024, 1, 1)), "value"),
        ([pl.Int64, pl.List(pl.Int64)], (2, [2]), "value"),
    ],
)
def test_types_that_cannot_be_mixed_are_refused(types, row, name, tmp_path):
    source, section = InMemory(), DeltaTable(kind="delta", table="x", watermark="at")
    source.table = [(1, 1)]
    parts = append(source, section, tmp_path)
    source.types, source.table = types, [row]
    since, draft = Since("at", row[0]), tmp_path / "draft"
    draft.mkdir()
    with pytest.raises(UserError, match=f"column '{name}' was Int64 and is now.*--full"):
        read_new(source, section, since, draft, parts, "test")


def test_a_person_is_removed_from_parts_of_different_types_and_the_other_rows_stay(tmp_path):
    copy = copy_of(tmp_path, "x")
    record = CopyRecord(place="x", generation="", is_table=True, user="who", read_at=datetime.now(UTC))
    with copy.draft() as draft:
        pl.DataFrame({"who": [7, 8, None], "at": [1, 2, 3]}).write_parquet(draft / "part-000000.parquet")
        pl.DataFrame({"who": ["7", "07", " 7 "], "at": [4, 5, 6]}).write_parquet(draft / "part-000001.parquet")
        copy.commit(draft, record)
    assert CopiesOfPerson(tmp_path, "7").counts()["copies of tables rewritten"] == 1
    CopiesOfPerson(tmp_path, "7").remove()
    assert rows_of(sorted(copy.folder.glob("*"))).collect().rows() == [("8", 2), (None, 3), ("07", 5)]


def test_a_copy_of_which_a_part_lacks_the_users_is_deleted_with_a_person(tmp_path):
    copy = copy_of(tmp_path, "x")
    record = CopyRecord(place="x", generation="", is_table=True, user="who", read_at=datetime.now(UTC))
    with copy.draft() as draft:
        pl.DataFrame({"who": [7, 8]}).write_parquet(draft / "part-000000.parquet")
        pl.DataFrame({"uid": [7, 8]}).write_parquet(draft / "part-000001.parquet")
        copy.commit(draft, record)
    CopiesOfPerson(tmp_path, "7").remove()
    assert not copy.path.exists()
