"""The row ledger: nothing finished is lost, nothing damaged is used, and who only looks changes nothing."""

import io
import sqlite3
import tempfile
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.errors import DarecError, UserError
from schemas.tables import TableSchema

SCHEMA = TableSchema({KEY: pl.String(), "text": pl.String(), "tokens": pl.Int32()}, nullable=("tokens",))


def rows(*keys: str, text: str = "t") -> pl.DataFrame:
    return pl.DataFrame({KEY: list(keys), "text": [f"{text}-{key}" for key in keys]})


def series(keys: "list[str] | tuple[str, ...] | str") -> pl.Series:
    return pl.Series(KEY, list(keys), dtype=pl.String)


def texts(ledger: Ledger, *keys: str) -> dict[str, str]:
    return dict(ledger.get(series(keys)).select(KEY, "text").iter_rows())


def missing(ledger: Ledger, *keys: str) -> list[str]:
    return ledger.missing(series(keys)).to_list()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger" / "rows.sqlite", SCHEMA)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), st.booleans())))
def test_it_behaves_like_a_dictionary_whose_first_value_counts_unless_replaced(chunks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger, expected = Ledger(Path(folder) / "rows.sqlite", SCHEMA), {}
        for number, (chunk, replace) in enumerate(chunks):
            ledger.append(rows(*chunk, text=str(number)), replace=replace)
            new = {key: f"{number}-{key}" for key in chunk}
            expected = expected | new if replace else new | expected
        assert texts(ledger, *"abcdefgh") == expected
        assert missing(ledger, *"abcdefgha") == [key for key in "abcdefgh" if key not in expected]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_values_of_every_type_come_back_as_they_were(data: st.DataObject) -> None:
    kinds = {
        "text": (pl.String(), st.text(st.characters(exclude_categories=["Cs"]))),
        "blob": (pl.Binary(), st.binary()),
        "small": (pl.Int32(), st.integers(-(2**31), 2**31 - 1)),
        "large": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
        "single": (pl.Float32(), st.floats(width=32, allow_nan=False)),
        "double": (pl.Float64(), st.floats(allow_nan=False)),
    }
    schema = TableSchema({KEY: pl.String()} | {name: dtype for name, (dtype, _) in kinds.items()}, nullable=list(kinds))
    row = {name: [data.draw(st.none() | values)] for name, (_, values) in kinds.items()}
    table = pl.DataFrame({KEY: [data.draw(st.text(st.characters(exclude_categories=["Cs"])))], **row}, schema=schema)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "rows.sqlite", schema)
        ledger.append(table)
        assert ledger.missing(table[KEY]).is_empty()
        assert ledger.get(table[KEY]).equals(table)


def test_an_empty_ledger_makes_no_folder(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none" / "rows.sqlite", SCHEMA)
    assert missing(ledger, "a", "a", "b") == ["a", "b"]
    assert texts(ledger, "a") == {}
    assert not (tmp_path / "none").exists()


def test_a_null_is_refused_where_the_schema_forbids_it(ledger: Ledger) -> None:
    with pytest.raises(DarecError, match="'text' is null in 1 of 1"):
        ledger.append(pl.DataFrame({KEY: ["a"], "text": [None], "tokens": [1]}))
    with pytest.raises(DarecError, match="'text' is missing"):
        ledger.append(pl.DataFrame({KEY: ["a"], "tokens": [1]}))
    assert missing(ledger, "a") == ["a"]


def test_a_column_may_be_added_later_and_is_null_in_older_rows(ledger: Ledger) -> None:
    ledger.append(rows("a"))
    wider = TableSchema({**SCHEMA, "attempts": pl.Int32()}, nullable=(*SCHEMA.nullable, "attempts"))
    newer = Ledger(ledger.path, wider)
    assert newer.get(series("a"))["attempts"].to_list() == [None]
    newer.append(rows("b").with_columns(attempts=2))
    assert dict(newer.get(series("ab")).select(KEY, "attempts").iter_rows()) == {"a": None, "b": 2}

    ledger.append(rows("c"))  # a process that does not know of the column yet
    assert texts(ledger, *"abc") == {key: f"t-{key}" for key in "abc"}
    assert newer.missing(series("abc")).is_empty()


def test_only_the_rows_asked_for_are_read(ledger: Ledger) -> None:
    """Counted in bytes read from the file, through SQLite's page cache: a look-up of twenty keys reads few pages."""
    for start in range(0, 100_000, 20_000):
        ledger.append(rows(*(row_key(str(key).encode()) for key in range(start, start + 20_000))))
    wanted = series([row_key(str(key).encode()) for key in range(99_990, 100_010)])
    before = read_bytes()
    assert len(ledger.missing(wanted)) == 10
    assert read_bytes() - before < ledger.path.stat().st_size / 20


def read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_row_keys_do_not_run_into_each_other() -> None:
    assert row_key(b"ab", b"c") != row_key(b"a", b"bc")
    assert row_key(b"ab", b"c") == row_key(b"ab", b"c")


def test_a_disk_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="ledger cannot be used"):
        Ledger(tmp_path / "file" / "rows.sqlite", SCHEMA).append(rows("a"))


def test_another_programs_database_is_refused_and_left_alone(ledger: Ledger) -> None:
    ledger.path.parent.mkdir()
    with closing(sqlite3.connect(ledger.path)) as db:
        db.execute("CREATE TABLE photographs (name)")
    before = ledger.path.read_bytes()
    for use in (lambda: missing(ledger, "a"), lambda: ledger.append(rows("a"))):
        with pytest.raises(UserError, match="not a row ledger"):
            use()
    assert ledger.path.read_bytes() == before


def test_one_lookup_gives_the_rows_and_the_keys_that_have_none(ledger: Ledger) -> None:
    ledger.append(rows(*"abc").with_columns(tokens=pl.lit(7)))
    found = ledger.look_up(series("cxayc"), ["tokens"])
    assert found.missing.to_list() == ["x", "y"]
    assert dict(found.rows.iter_rows()) == {"a": 7, "c": 7}
    assert ledger.survey(series("cxayc")).rows.columns == [KEY]


def test_many_files_of_version_0_1_are_not_each_compared_with_all_keys(ledger: Ledger, monkeypatch) -> None:
    """A million keys in 489 files took two minutes: each file was looked up among all keys that were left."""
    for number in range(30):
        write_old(ledger, number, rows(*(f"{number}-{row}" for row in range(20)), "twice", text=str(number)))
    keys, compared, plain = (
        series([f"{n}-{row}" for n in range(30) for row in range(25)] + ["twice"]),
        [],
        pl.Series.is_in,
    )
    monkeypatch.setattr(pl.Series, "is_in", lambda self, *args: compared.append(len(self)) or plain(self, *args))
    found = ledger.survey(keys, ["text"])
    assert found.rows.height == 30 * 20 + 1
    assert len(found.missing) == 30 * 5
    assert dict(found.rows.iter_rows())["twice"] == "0-twice"
    assert sum(compared) <= 2 * len(keys)


def write_old(ledger: Ledger, number: int, table: pl.DataFrame) -> None:
    """A file of rows as version 0.1 kept them."""
    folder, buffer = ledger.path.with_suffix(""), io.BytesIO()
    folder.mkdir(parents=True, exist_ok=True)
    table.write_parquet(buffer)
    digest = blake2b(buffer.getvalue(), digest_size=16).hexdigest()
    (folder / f"{number:020d}-{digest}.parquet").write_bytes(buffer.getvalue())


def test_forgotten_values_leave_every_file_and_all_other_rows_stay(ledger: Ledger) -> None:
    ledger.append(rows(*"abcd", text="old"))
    ledger.append(pl.DataFrame({KEY: ["e"], "text": ["old-b"]}))
    content = ledger.path.read_bytes()
    ledger.path.write_bytes(content.replace(b"old-c", b"odd-c"))
    (ledger.path.parent / "rows-1.damaged").write_bytes(b"old-b")
    (ledger.path.parent / "rows-1.damaged-journal").write_bytes(b"old-b")
    for number, (name, text) in enumerate((("f", "old"), ("g", "new"))):
        write_old(ledger, number, pl.concat([rows(name, text=text), rows("b", text=text)]))
    folder = ledger.path.with_suffix("")
    (folder / f"{2:020d}-{'0' * 32}.parquet").write_bytes(b"cut short")

    assert ledger.holding("text", ["old-b", "none"]) == 2
    assert len(ledger.beside("text", ["old-b"])) == 4
    assert ledger.forget("text", ["old-b", "none"]) == 2
    assert texts(ledger, *"abcdefg") == {"a": "old-a", "b": "new-b", "d": "old-d", "f": "old-f", "g": "new-g"}
    assert missing(ledger, *"abcdefg") == ["c", "e"]
    assert not any(b"old-b" in path.read_bytes() or b"odd-c" in path.read_bytes() for path in _files(ledger))
    assert not any("old-b" in pl.read_parquet(path)["text"] for path in folder.iterdir())
    assert ledger.holding("text", ["old-b"]) == 0 and ledger.beside("text", ["old-b"]) == []
    assert ledger.forget("text", []) == 0
    ledger.append(rows("c", "e"))
    assert missing(ledger, *"abcdefg") == []


def _files(ledger: Ledger) -> list[Path]:
    return [path for path in ledger.path.parent.rglob("*") if path.is_file()]
