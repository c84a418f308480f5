"""Rows found by a text column: only where they may stand is read, and the answer is that of a whole scan."""

import polars as pl
import pyarrow.parquet as pq
import pytest

from darec.artifacts.tables import places_of


@pytest.fixture
def read(monkeypatch):
    """Numbers of the row groups that are read."""
    groups, plain = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, number, **kw: groups.append(number) or plain(self, number, **kw)
    )
    return groups


def write(path, ids):
    pl.DataFrame({"id": ids, "n": range(len(ids))}).write_parquet(path, row_group_size=100)
    return path


def test_one_group_is_read_for_one_id_among_sorted_ones(tmp_path, read):
    path = write(tmp_path / "ids.parquet", [f"u{number:05d}" for number in range(5000)])
    assert places_of(path, "id", ["u04321"]) == [4321]
    assert read == [43]


@pytest.mark.parametrize("wanted", [["u17"], ["u5", "u4999"], ["u1", "u1", "u2500"]])
def test_places_are_those_of_a_scan_in_any_order(tmp_path, wanted):
    ids = [f"u{number * 7 % 5000}" for number in range(5000)]
    path = write(tmp_path / "ids.parquet", ids)
    assert sorted(places_of(path, "id", wanted) or []) == [place for place, each in enumerate(ids) if each in wanted]


def test_an_id_that_is_not_there_is_left_to_a_scan(tmp_path):
    path = write(tmp_path / "ids.parquet", [f"u{number:05d}" for number in range(500)])
    assert places_of(path, "id", ["u00001", "u99999"]) is None
    assert places_of(path, "id", []) == []
