"""The row ledger: nothing finished is lost, nothing damaged is used."""

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts import ledger as ledger_module
from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.errors import DarecError

SCHEMA = {KEY: pl.String(), "text": pl.String()}


def rows(*keys: str, text: str = "t") -> pl.DataFrame:
    return pl.DataFrame({KEY: list(keys), "text": [f"{text}-{key}" for key in keys]}, schema=SCHEMA)


def texts(ledger: Ledger, *keys: str) -> dict[str, str]:
    return dict(ledger.get(pl.Series(list(keys), dtype=pl.String)).select(KEY, "text").iter_rows())


def missing(ledger: Ledger, *keys: str) -> list[str]:
    return ledger.missing(pl.Series(list(keys), dtype=pl.String)).to_list()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), max_size=6))
def test_it_behaves_like_a_dictionary_whose_first_value_counts(chunks: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger, expected = Ledger(Path(folder), SCHEMA), {}
        for number, chunk in enumerate(chunks):
            ledger.append(rows(*chunk, text=str(number)))
            for key in chunk:
                expected.setdefault(key, f"{number}-{key}")
        assert texts(ledger, *"abcdefgh") == expected
        assert missing(ledger, *"abcdefgha") == [key for key in "abcdefgh" if key not in expected]


def test_an_empty_ledger_makes_no_folder(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none", SCHEMA)
    assert missing(ledger, "a", "a", "b") == ["a", "b"]
    assert texts(ledger, "a") == {}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["byte", "cut", "empty"])
def test_a_damaged_chunk_is_set_aside_and_its_rows_are_missing_again(tmp_path: Path, damage: str) -> None:
    ledger = Ledger(tmp_path, SCHEMA)
    ledger.append(rows("a", "b"))
    ledger.append(rows("c"))
    path = sorted(tmp_path.glob("*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes({"byte": bytes(content), "cut": bytes(content[:-20]), "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged"):
        assert texts(ledger, "a", "b", "c") == {"c": "t-c"}
    assert missing(ledger, "a", "b", "c") == ["a", "b"]
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_compaction_keeps_every_row_and_the_older_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_COMPACT_FILES", 4)
    ledger = Ledger(tmp_path, SCHEMA)
    for number in range(5):
        ledger.append(rows("shared", f"k{number}", text=str(number)))
    ledger.compact()
    ledger.append(rows("shared", text="late"))
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert texts(ledger, "shared", "k0", "k4") == {"shared": "0-shared", "k0": "0-k0", "k4": "4-k4"}


def _append_for_ever(folder: str) -> None:
    ledger = Ledger(Path(folder), SCHEMA)
    for number in range(10_000):
        ledger.append(rows(*(f"{number}-{row}" for row in range(50))))


def test_a_killed_writer_leaves_whole_chunks_only(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("spawn").Process(target=_append_for_ever, args=(str(tmp_path),))
    writer.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    ledger = Ledger(tmp_path, SCHEMA)
    chunks = len(list(tmp_path.glob("*.parquet")))
    keys = [f"{number}-{row}" for number in range(chunks) for row in range(50)]
    assert chunks >= 5
    assert len(texts(ledger, *keys)) == len(keys)


def test_a_disk_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DarecError, match="ledger cannot be written"):
        Ledger(tmp_path / "file", SCHEMA).append(rows("a"))


def test_many_rows_stay_quick(tmp_path: Path) -> None:
    ledger, chunk = Ledger(tmp_path, SCHEMA), 50_000
    for start in range(0, 200_000, chunk):
        keys = pl.Series(KEY, range(start, start + chunk)).cast(pl.String)
        ledger.append(pl.DataFrame({KEY: keys, "text": keys}))
    started = time.monotonic()
    assert missing(ledger, *(str(key) for key in range(199_990, 200_010))) == [
        str(key) for key in range(200_000, 200_010)
    ]
    assert time.monotonic() - started < 10


def test_row_keys_do_not_run_into_each_other() -> None:
    assert row_key(b"ab", b"c") != row_key(b"a", b"bc")
    assert row_key(b"ab", b"c") == row_key(b"ab", b"c")
