"""Tables of databases and lakes: read whole at first, and from then on only what is new."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi
import adbc_driver_sqlite.dbapi
import deltalake
import duckdb
import polars as pl
import pytest

from darec.artifacts.store import Store
from darec.common.errors import TransientError, UserError
from darec.dataset.copies import copies_in
from schemas.copies import COPIES
from schemas.recipe import Recipe
from stages.plan import plan
from stages.prepare import read_sources
from stages.walk import run
from tests import databases
from tests.remotes import night, recipe

ROOT = Path(__file__).parents[2]
START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[int, str, str, float, datetime]
ROWS: list[Row] = [(n, f"u{n % 4}", f"i{n % 3}", 4.0 + n % 2, START + timedelta(hours=n)) for n in range(12)]
QUERY = "SELECT * FROM events"
DDL = "CREATE TABLE events (id BIGINT, user_id TEXT, item_id TEXT, rating {number}, ts {time})"


@dataclass
class Database:
    """A database or lake with the table `events`."""

    place: dict[str, Any]
    add: Callable[[Sequence[Row]], None]
    words: str
    """What its errors name it."""


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["id", "user_id", "item_id", "rating", "ts"], orient="row")


def sql_values(rows: Sequence[Row], zone: str = "") -> str:
    values = (
        f"{n}, '{user}', '{item}', {rating}, '{at:%Y-%m-%d %H:%M:%S}{zone}'" for n, user, item, rating, at in rows
    )
    return ", ".join(f"({each})" for each in values)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with databases.postgresql() as address:
        yield address


def executing(connect: Callable[[], Any]) -> Callable[[str], None]:
    def execute(statement: str) -> None:
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            connection.commit()

    return execute


def make_postgresql(folder: Path, request: pytest.FixtureRequest) -> Database:
    url = request.getfixturevalue("postgresql")
    execute = executing(lambda: adbc_driver_postgresql.dbapi.connect(url))
    execute("DROP TABLE IF EXISTS events")
    execute(DDL.format(number="NUMERIC(3, 1)", time="TIMESTAMPTZ"))
    place = {"kind": "postgresql", "url": url, "query": QUERY}
    return Database(
        place, lambda rows: execute(f"INSERT INTO events VALUES {sql_values(rows, '+00')}"), "/postgres?host="
    )


def make_adbc(folder: Path, request: pytest.FixtureRequest) -> Database:
    path = str(folder / "shop.sqlite")
    execute = executing(lambda: adbc_driver_sqlite.dbapi.connect(path))
    execute(DDL.format(number="REAL", time="TEXT"))
    place = {"kind": "adbc", "driver": "adbc_driver_sqlite", "url": path, "query": QUERY}
    return Database(place, lambda rows: execute(f"INSERT INTO events VALUES {sql_values(rows)}"), path)


def make_duckdb(folder: Path, request: pytest.FixtureRequest) -> Database:
    path = str(folder / "shop.duckdb")

    def execute(statement: str) -> None:
        with duckdb.connect(path) as connection:
            connection.execute(statement)

    execute(DDL.format(number="DECIMAL(3, 1)", time="TIMESTAMP"))
    place = {"kind": "duckdb", "file": path, "query": f"{QUERY} -- all of them;"}
    return Database(place, lambda rows: execute(f"INSERT INTO events VALUES {sql_values(rows)}"), path)


def make_delta(folder: Path, request: pytest.FixtureRequest) -> Database:
    path = str(folder / "events")
    return Database(
        {"kind": "delta", "table": path},
        lambda rows: deltalake.write_deltalake(path, frame(rows).to_arrow(), mode="append"),
        path,
    )


def make_iceberg(folder: Path, request: pytest.FixtureRequest) -> Database:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.utils.config import Config

    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHOP__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHOP__URI", f"sqlite:///{folder}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHOP__WAREHOUSE", f"file://{folder}/lake")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # it was read when the library was imported
    catalog = load_catalog("shop")
    catalog.create_namespace("web")
    table = catalog.create_table("web.events", schema=frame(ROWS).to_arrow().schema)
    place = {"kind": "iceberg", "catalog": "shop", "table": "web.events"}
    return Database(
        place, lambda rows: table.append(frame(rows).to_arrow().cast(table.schema().as_arrow())), "web.events"
    )


MAKERS = {
    "postgresql": make_postgresql,
    "adbc": make_adbc,
    "duckdb": make_duckdb,
    "delta": make_delta,
    "iceberg": make_iceberg,
}


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Of the kind of the test's parameter, with all `ROWS`."""
    made = MAKERS[request.param](tmp_path, request)
    made.add(ROWS)
    return made


every_kind = pytest.mark.parametrize("database", list(MAKERS), indirect=True)


def of(folder: Path, place: dict[str, Any], **more: Any) -> Recipe:
    columns = {"rating": "rating", "timestamp": "ts"}
    return recipe(folder, source="parquet", interactions=place | more, interaction_columns=columns)


def copied(chosen: Recipe) -> list[int]:
    """The ids of the copy's rows, in order."""
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    return sorted(pl.read_parquet(f"{copy.place}/*.parquet")["id"].to_list())


@every_kind
def test_a_table_is_read_and_read_on_from_its_watermark(database: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, database.place, watermark="ts")
    store = Store(chosen.runtime.store)
    read, (ingest, _) = night(chosen)
    assert read[0].endswith(f"{len(ROWS)} rows")
    assert (ingest.report.rows_in, ingest.report.users, ingest.report.items) == (12, 4, 3)
    assert "interactions were read from" in ingest.report.notes[-1]

    assert plan(chosen, store, "ingest")[0].state == "hit"
    read, results = night(chosen)
    assert read[0].endswith("unchanged") and all(result.cached for result in results)

    # One newer row, and one with the very time of the newest that was read.
    database.add([(12, "u9", "i0", 5.0, START + timedelta(hours=11)), (13, "u9", "i1", 5.0, START + timedelta(days=1))])
    (step,) = plan(chosen, store, "ingest")
    assert step.state == "stale" and "has changed since the copy of" in step.why[0]
    read, results = night(chosen)
    assert read[0].endswith("2 new rows") and not any(result.cached for result in results)
    assert copied(chosen) == list(range(14))
    assert results[0].report.users == 5

    assert read_sources(chosen)[0].endswith("unchanged")
    assert read_sources(chosen, full=True)[0].endswith("14 rows, the same as before")
    assert run(chosen, "ingest")[0].cached


@every_kind
def test_without_a_watermark_all_rows_are_read_when_something_changed(database: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, database.place)
    night(chosen)
    assert all(result.cached for result in night(chosen)[1])
    database.add([(12, "u9", "i0", 5.0, START)])
    read, results = night(chosen)
    assert read[0].endswith("13 rows") and not results[0].cached
    assert copied(chosen) == list(range(13))


@every_kind
def test_a_table_or_column_that_is_not_there_is_told(database: Database, tmp_path: Path) -> None:
    table = "query" if "query" in database.place else "table"
    missing = {"query": "SELECT * FROM nowhere", "table": f"{database.place.get('table')}x"}[table]
    for wrong, words in (
        ({table: missing}, r"nowhere|not a Delta table|does not exist"),
        ({"watermark": "tss"}, "there is no column 'tss'; the table has 'id', 'user_id'"),
        ({"watermark": "ts", "key": ("idd",)}, "there is no column 'idd'"),
    ):
        with pytest.raises(UserError, match=words) as found:
            read_sources(of(tmp_path, database.place, **wrong))
        assert database.words in str(found.value) and "->" in str(found.value)
    read_sources(of(tmp_path, database.place))
    lacking = recipe(
        tmp_path, source="parquet", interactions=database.place, interaction_columns={"user": "usr", "timestamp": "ts"}
    )
    with pytest.raises(UserError, match="there is no column 'usr'; did you mean 'user_id'") as found:
        run(lacking, "ingest")
    assert database.words in found.value.where and "part-0" not in found.value.where


def test_what_postgresql_refuses_is_told_without_the_password(postgresql: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "s3cret-word")
    host = postgresql.partition("?host=")[2]
    for url, kind, words in (
        ("postgresql://reader:${SHOP_PASSWORD}@127.0.0.1:1/shop", TransientError, "Connection refused"),
        (f"postgresql://nobody:${{SHOP_PASSWORD}}@/postgres?host={host}", UserError, '"nobody" does not exist'),
        (f"postgresql://postgres:${{SHOP_PASSWORD}}@/shop?host={host}", UserError, '"shop" does not exist'),
        ("postgresql://${NO_SUCH_VARIABLE}@127.0.0.1/shop", UserError, "NO_SUCH_VARIABLE is not set"),
    ):
        with pytest.raises(kind, match=words) as found:
            read_sources(of(tmp_path, {"kind": "postgresql", "url": url, "query": QUERY}))
        assert "s3cret-word" not in str(found.value)


def test_postgresql_takes_what_the_url_leaves_out_from_the_environment(
    postgresql, tmp_path, request, monkeypatch
) -> None:
    make_postgresql(tmp_path, request).add(ROWS)
    monkeypatch.setenv("PGHOST", postgresql.partition("?host=")[2])
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "postgres")
    chosen = of(tmp_path, {"kind": "postgresql", "query": "SELECT id, user_id, item_id, rating, ts FROM events;"})
    assert night(chosen)[1][0].report.rows_in == 12


# What a watermark means, on the quickest of them


@pytest.fixture
def sqlite(tmp_path: Path, request: pytest.FixtureRequest) -> Database:
    made = make_adbc(tmp_path, request)
    made.add(ROWS)
    return made


def change(database: Database, statement: str) -> None:
    executing(lambda: adbc_driver_sqlite.dbapi.connect(database.place["url"]))(statement)


def test_late_rows_are_read_within_the_lag_and_equal_rows_are_kept(sqlite: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, sqlite.place | {"query": "SELECT id, user_id, item_id, rating, id AS ts FROM events"})
    place = chosen.data.interactions
    late = of(tmp_path, place.model_dump(), watermark="ts", lag=5)
    read_sources(late)
    sqlite.add([(7, "late", "i0", 5.0, START), (3, "later", "i0", 5.0, START), (11, *ROWS[11][1:])])
    assert read_sources(late)[0].endswith("2 new rows"), "within 5 of 11: the late row, and a second equal one"
    assert copied(late) == sorted([*range(12), 7, 11])
    assert read_sources(late)[0].endswith("unchanged")
    read_sources(late, full=True)
    assert copied(late) == sorted([*range(12), 3, 7, 11]), "a full read finds what was later"


def test_rows_that_are_deleted_stay_until_everything_is_read_again(sqlite: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, sqlite.place, watermark="id")
    night(chosen)
    change(sqlite, "DELETE FROM events WHERE id IN (2, 11)")
    night(chosen)
    assert copied(chosen) == list(range(12))
    assert read_sources(chosen)[0].endswith("unchanged")
    assert read_sources(chosen, full=True)[0].endswith("10 rows")
    assert copied(chosen) == [0, 1, *range(3, 11)]


def test_a_key_lets_newer_rows_replace_older_ones(sqlite: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, sqlite.place, watermark="ts", key=("id",))
    night(chosen)
    change(sqlite, "UPDATE events SET rating = 1.5, ts = '2024-02-01 00:00:00' WHERE id = 2")
    sqlite.add([(12, "u1", "i1", 4.0, datetime(2024, 2, 2, tzinfo=UTC))])
    assert read_sources(chosen)[0].endswith("2 new rows")
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    rows = pl.read_parquet(f"{copy.place}/*.parquet")
    assert copied(chosen) == list(range(13))
    assert rows.filter(id=2)["rating"].to_list() == [1.5]


@pytest.mark.parametrize("column", ["user_id", "rating"])
def test_a_column_that_is_renamed_at_the_source_stops_the_read(column: str, sqlite: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, sqlite.place, watermark="id")
    night(chosen)
    change(sqlite, f"ALTER TABLE events RENAME COLUMN {column} TO {column}_2")
    sqlite.add([(12, "u1", "i1", 4.0, START)])
    with pytest.raises(UserError, match=f"no longer has the column '{column}'; did you mean '{column}_2'.*--full"):
        read_sources(chosen)
    assert run(chosen, "ingest")[0].cached, "the copy is the old one"

    renamed = {column.removesuffix("_id"): f"{column}_2"}
    columns = chosen.data.interaction_columns.model_copy(update=renamed)
    chosen = chosen.model_copy(update={"data": chosen.data.model_copy(update={"interaction_columns": columns})})
    read_sources(chosen, full=True)
    assert run(chosen, "ingest")[0].artifact.manifest.report["rows_in"] == 13


def test_a_sqlite_file_that_is_not_there_is_named_and_not_created(sqlite: Database, tmp_path: Path) -> None:
    missing = tmp_path / "shpo.sqlite"
    for url in (str(missing), f"file:{missing}", f"file://{missing}?mode=rwc"):
        with pytest.raises(UserError, match=r"the SQLite file does not exist .*data\.interactions\.url") as found:
            read_sources(of(tmp_path, sqlite.place | {"url": url}))
        assert found.value.where == str(missing)
    assert not missing.exists()

    for number, url in enumerate((f"file:{sqlite.place['url']}", f"file://{sqlite.place['url']}?mode=ro")):
        assert read_sources(of(tmp_path / str(number), sqlite.place | {"url": url}))[0].endswith("12 rows")
    with pytest.raises(UserError, match="no such table"):
        read_sources(of(tmp_path, sqlite.place | {"url": ":memory:"}))


def test_items_in_a_file_beside_a_table_have_their_own_format(sqlite: Database, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\ni0,A\ni1,B\ni2,C\n")
    files = {"source": "parquet", "interactions": sqlite.place, "items": str(tmp_path / "items.csv")}
    columns = {"rating": "rating", "timestamp": "ts"}
    words = r"not a Parquet file \[.*items\.csv\] -> set data\.item_format: \{format: csv\}"
    with pytest.raises(UserError, match=words):
        night(recipe(tmp_path, interaction_columns=columns, **files))
    night(recipe(tmp_path, interaction_columns=columns, item_format={"format": "csv"}, **files))
    night(recipe(tmp_path, interaction_columns=columns, **files | {"source": "csv"}))


def test_columns_that_the_recipe_does_not_read_may_go(sqlite: Database, tmp_path: Path) -> None:
    change(sqlite, "ALTER TABLE events ADD COLUMN page TEXT")
    chosen = of(tmp_path, sqlite.place, watermark="id")
    night(chosen)
    change(sqlite, "ALTER TABLE events DROP COLUMN page")
    sqlite.add([(12, "u1", "i1", 4.0, START)])
    assert night(chosen)[1][0].artifact.manifest.report["rows_in"] == 13


def test_a_read_that_is_killed_while_it_is_kept_leaves_nothing_half_appended(sqlite: Database, tmp_path: Path) -> None:
    chosen = of(tmp_path, sqlite.place, watermark="id")
    night(chosen)
    (tmp_path / "recipe.json").write_text(chosen.model_dump_json(exclude_defaults=True))
    sqlite.add([(12, "u1", "i1", 4.0, START)])
    script = """
import os, sys
from pathlib import Path
from unittest.mock import patch
import darec.dataset.copies, darec.dataset.incremental
from schemas.recipe import Recipe
from stages.prepare import read_sources

def die(*_, **__):
    os.kill(os.getpid(), 9)

with patch(sys.argv[2], die):
    read_sources(Recipe.model_validate_json(Path(sys.argv[1]).read_text()))
"""
    for moment in ("pathlib.Path.rename", "darec.dataset.copies.Copy.update"):
        command = [sys.executable, "-c", script, str(tmp_path / "recipe.json"), moment]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
        assert copied(chosen) == list(range(12))
        assert run(chosen, "ingest")[0].cached, "the copy is the old one, whole"
    assert read_sources(chosen)[0].endswith("1 new rows")
    assert copied(chosen) == list(range(13))
