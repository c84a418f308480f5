"""Commands that know remote sources: data inspect, data fetch, forget."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from darec.dataset.copies import copies_in, copy_of
from darec.dataset.forgetting import CopiesOfPerson
from darec.serving.retention import collect
from pipelines.cli import app
from schemas.copies import COPIES
from stages.prepare import read_sources
from stages.walk import run
from tests.data import write_checkerboard
from tests.remotes import Files, files_server, night, recipe

PERSON = "u001"
QUERY = "SELECT user_id, item_id, rating, timestamp FROM events"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Files]:
    write_checkerboard(tmp_path / "data", users=12, items=10)
    with files_server() as server:
        for path in (tmp_path / "data").glob("*.csv"):
            server.content[f"/{path.name}"] = path.read_bytes()
        yield server


def darec(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def make_sqlite(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "shop.sqlite")) as db:
        rows = pl.read_csv(folder / "data" / "interactions.csv").drop("split").rows()
        db.execute("CREATE TABLE events (user_id TEXT, item_id TEXT, rating INTEGER, timestamp INTEGER)")
        db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        db.commit()
    return folder / "shop.sqlite"


def test_inspect_describes_urls_and_tables_and_its_recipe_runs(web: Files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("shop.duckdb") as db:
        db.execute("CREATE TABLE things AS SELECT * FROM read_csv('data/items.csv')")
    sqlite = make_sqlite(tmp_path)

    for log in (f"{web.url}/interactions.csv", f"adbc_driver_sqlite:{sqlite.name}#events"):
        found = yaml.safe_load(darec("data", "inspect", log, "shop.duckdb#things"))
        assert found["data"]["items"] == {"kind": "duckdb", "file": "shop.duckdb", "query": "SELECT * FROM things"}
        assert found["data"]["interaction_columns"].items() >= {"timestamp": "timestamp", "rating": "rating"}.items()
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(found | {"runtime": {"store": str(tmp_path / "store")}}))
        lines = darec("data", "fetch", "--recipe", "mine.yaml").splitlines()
        assert len(lines) == 2 and lines[1].endswith("unchanged" if "adbc" in log else "10 rows")

    ingest = run(load_recipe(tmp_path / "mine.yaml"), "ingest")[0]
    assert (ingest.report.users, ingest.report.items) == (12, 10)


def test_a_table_is_inspected_by_its_first_rows(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("darec.dataset.inspect._MOST_ROWS", 1_000)
    with duckdb.connect(str(tmp_path / "big.duckdb")) as db:
        db.execute(
            "CREATE TABLE events AS SELECT 'u' || n % 50 AS user_id, 'i' || n % 70 AS item_id, "
            "1600000000 + n AS ts FROM range(400000) AS numbers(n)"
        )
    result = CliRunner().invoke(app, ["data", "inspect", f"{tmp_path}/big.duckdb#events"])
    assert yaml.safe_load(result.stdout)["data"]["interaction_columns"] == {"timestamp": "ts"}
    (rows,) = [
        int(line.split("rows_in ")[1].split(", ")[0].replace(",", ""))
        for line in result.stderr.splitlines()
        if "rows_in" in line
    ]
    assert 1_000 <= rows < 400_000
    assert "all numbers are those of its first rows" in result.stderr


def test_fetch_says_what_it_did_and_full_reads_again(web: Files, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {"source": "csv", "interactions": f"{web.url}/interactions.csv"},
                "split": {"strategy": "random"},
                "runtime": {"store": str(tmp_path / "store")},
            }
        )
    )
    words = [darec("data", "fetch", "--recipe", str(tmp_path / "mine.yaml"), *more) for more in ((), (), ("--full",))]
    assert ["1 of 1 files" in words[0], "unchanged" in words[1], "1 of 1 files" in words[2]] == [True] * 3
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({"runtime": {"store": str(tmp_path / "store")}}))
    assert "nothing to fetch" in darec("data", "fetch", "--recipe", str(tmp_path / "local.yaml"))


def test_gc_removes_the_copies_that_no_kept_artifact_was_made_from(web: Files, tmp_path: Path) -> None:
    store, later = Store(tmp_path / "store"), time.time() + 30 * 86_400
    web.content["/old-interactions.csv"] = web.content["/interactions.csv"]
    for prefix in ("old-", ""):
        loaded = recipe(tmp_path, interactions=f"{web.url}/{prefix}interactions.csv")
        read_sources(loaded)
        if not prefix:
            run(loaded, "ingest")

    folder = store.root / COPIES
    used, unused = (copy_of(folder, f"{web.url}/{name}").path for name in ("interactions.csv", "old-interactions.csv"))
    assert collect(store, 1, 1).removed == ()  # a week is not over
    (removal,) = collect(store, 1, 1, now=later).removed
    assert (removal.kind, removal.path) == ("copy", unused)
    assert used.is_dir() and not unused.exists()


def abandoned(web: Files, folder: Path, moment: str) -> Store:
    """A store with what a killed download, or a killed deletion, leaves of a copy."""
    chosen = recipe(folder, interactions=f"{web.url}/interactions.csv")
    with pytest.MonkeyPatch.context() as killed, pytest.raises(KeyboardInterrupt):
        if moment == "download":
            killed.setattr("darec.dataset.copies.Copy.commit", interrupted)
            read_sources(chosen)
        read_sources(chosen)
        killed.setattr("shutil.rmtree", interrupted)
        if moment == "forget":
            CopiesOfPerson(chosen.runtime.store / COPIES, PERSON).remove()
        collect(Store(chosen.runtime.store), 1, 1, now=time.time() + 30 * 86_400)
    return Store(chosen.runtime.store)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["download", "forget", "gc"])
def test_what_is_left_of_a_copy_without_a_record_is_found(web: Files, tmp_path: Path, moment: str) -> None:
    for number, removes in enumerate(("forget", "gc")):
        store = abandoned(web, tmp_path / str(number), moment)
        (foreign := store.root / COPIES / "mine").mkdir()
        (foreign / "notes.txt").touch()
        assert holding(store.root) and not list(store.root.glob(f"{COPIES}/*/copy.json"))
        if removes == "forget":
            copies = CopiesOfPerson(store.root / COPIES, PERSON)
            assert copies.counts() == {"copies of tables rewritten": 0, "copies of files deleted": 1}
            copies.remove()
        else:
            assert collect(store, 1, 1).removed == ()  # a week is not over
            (removal,) = collect(store, 1, 1, now=time.time() + 30 * 86_400).removed
            assert removal.kind == "copy"
        assert holding(store.root) == []
        assert (foreign / "notes.txt").is_file(), "what is not darec's stays"


def holding(store: Path) -> list[str]:
    """The files of a store that hold the person, in their bytes or in a table's cells; receipts may not."""
    found = []
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        held = PERSON.encode() in path.read_bytes()
        if path.suffix == ".parquet":
            held = held or repr(PERSON) in str(pl.read_parquet(path, glob=False).rows())
        if held:
            found.append(str(path.relative_to(store)))
    return found


def test_forget_removes_a_person_from_the_copies(web: Files, tmp_path: Path) -> None:
    sqlite = make_sqlite(tmp_path)
    place = {"kind": "adbc", "driver": "adbc_driver_sqlite", "url": str(sqlite), "query": QUERY}
    chosen = recipe(
        tmp_path,
        interactions=place | {"watermark": "timestamp"},
        items=f"{web.url}/items.csv",
        users=f"{web.url}/users.csv",
        interaction_format={"format": "parquet"},
    )
    night(chosen)
    with closing(sqlite3.connect(sqlite)) as db:
        db.execute("INSERT INTO events VALUES ('u002', 'i003', 5, 1800000000)")
        db.commit()
    read_sources(chosen)  # so that there is an older generation
    store = Store(chosen.runtime.store)
    assert len([name for name in holding(store.root) if name.startswith(COPIES)]) > 2

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(chosen.model_dump(mode="json", exclude_defaults=True)))
    wanted = CopiesOfPerson(store.root / COPIES, PERSON).counts()
    assert wanted == {"copies of tables rewritten": 1, "copies of files deleted": 1}
    assert "copies of tables rewritten" in darec("forget", "--user", PERSON, "--dry-run", "--recipe", str(path))
    assert holding(store.root)
    (store.root / COPIES / "mine").mkdir()
    told = darec("forget", "--user", PERSON, "--recipe", str(path))
    assert holding(store.root) == []
    assert all(
        word in " ".join(told.split())
        for word in ("remove the person from", "shop.sqlite", "users.csv", "sources/mine")
    )

    # What is new at the source is read on, and the person does not come back with it.
    with closing(sqlite3.connect(sqlite)) as db:
        db.execute(f"DELETE FROM events WHERE user_id = '{PERSON}'")
        db.execute("INSERT INTO events VALUES ('u003', 'i003', 5, 1800000001)")
        db.commit()
    web.content["/users.csv"] = b"".join(
        line for line in web.content["/users.csv"].splitlines(keepends=True) if PERSON.encode() not in line
    )
    read, _ = night(chosen)
    assert "1 new rows" in read[0]
    assert holding(store.root) == []


def test_forget_knows_ids_as_ingest_does_and_deletes_what_it_cannot_judge(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as db:
        db.execute("CREATE TABLE events (who TEXT, item_id TEXT, timestamp INTEGER)")
        rows = [(" Ann ", "i1", 1), ("ann", "i2", 2), ("Anna", "ann", 3), (None, "i1", 4)]
        db.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        db.commit()
    place = {"kind": "adbc", "driver": "adbc_driver_sqlite", "url": str(tmp_path / "a.sqlite")}
    place["query"] = "SELECT * FROM events"
    columns = {"user": "who", "timestamp": "timestamp"}
    chosen = recipe(tmp_path, interactions=place, interaction_columns=columns, merge_ids=["case"])
    read_sources(chosen)
    folder = chosen.runtime.store / COPIES
    assert not CopiesOfPerson(folder, "Bob").named
    CopiesOfPerson(folder, "Ann").remove()
    (copy,) = copies_in(folder)
    assert pl.read_parquet(f"{copy.place}/*.parquet")["who"].to_list() == ["Anna", None]

    part = next(copy.folder.glob("*.parquet"))
    part.write_bytes(b"damaged")
    assert CopiesOfPerson(folder, "Ann").counts()["copies of files deleted"] == 1
    CopiesOfPerson(folder, "Ann").remove()
    assert copies_in(folder) == []
