"""A release in PostgreSQL, Qdrant, LanceDB and Milvus, all real: switched at once, rolled back, forgotten, killed."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import lancedb
import numpy as np
import polars as pl
import psycopg
import pytest
from milvus_lite import MilvusLite
from milvus_lite.server_manager import server_manager_instance
from pydantic import ValidationError
from pymilvus import MilvusClient
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.recipes import load_recipe
from darec.serving import index, milvus
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.forgetting import forget
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from darec.serving.vectors import Version, follow, open_store, served
from pipelines.cli import app
from pipelines.doctor import examine
from schemas.vectors import VectorsConfig
from stages.plan import plan
from stages.registry import TASKS
from stages.walk import run as run_pipeline
from tests import databases
from tests.release_samples import GATE, contents, export
from tests.report_samples import FAKES, recipe

STORES = ("pgvector", "qdrant", "lancedb", "milvus")
K = 10
KILLED = """
import os, signal, sys
from pathlib import Path
from darec.serving import vectors
from schemas.vectors import VectorsConfig

whole = vectors.Version.blocks
def cut(self, side):
    for block in whole(self, side):
        yield block.head(5)
        if side == {side!r}:
            os.kill(os.getpid(), signal.SIGKILL)
vectors.Version.blocks = cut
vectors.follow(Path(sys.argv[1]), VectorsConfig.model_validate_json(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def postgresql():
    with databases.postgresql() as address:
        yield address


@pytest.fixture
def address(request, tmp_path, postgresql):
    """Of an empty store."""

    def of(store: str) -> str:
        if store != "pgvector":
            return str(tmp_path / (f"{store}.db" if store == "milvus" else store))
        with psycopg.connect(postgresql, autocommit=True) as db:
            db.execute("DROP SCHEMA public CASCADE")
            db.execute("CREATE SCHEMA public")
            db.execute("DROP EXTENSION IF EXISTS vector")
        return postgresql

    return of


@pytest.fixture
def releases(tmp_path) -> Releases:
    """Two releases, the first of which has wider vectors."""
    for seed in range(2):
        publish(tmp_path, seed)
    return Releases(tmp_path)


def publish(folder: Path, seed: int) -> None:
    sample = contents(seed=seed, width=12 if seed == 0 else 8)
    Releases(folder).publish(export(Store(folder), sample, {"recall@20": 0.3 + seed / 100}).path, GATE)


def served_by(config: VectorsConfig) -> str | None:
    with open_store(config) as store:
        return store.current()


def searched(config: VectorsConfig, user: str) -> tuple[list[str], np.ndarray]:
    """The nearest items of a user and the user's vector, as a program finds them that knows the store and not darec."""
    address = str(config.address)
    if config.store == "pgvector":
        nearest = "SELECT item_id FROM darec_items ORDER BY vector <#> %s::vector LIMIT %s"
        with psycopg.connect(address) as db:
            (vector,) = db.execute("SELECT vector::text FROM darec_users WHERE user_id = %s", [user]).fetchone()
            return [item for (item,) in db.execute(nearest, [vector, K])], np.array(eval(vector), np.float32)
    if config.store == "qdrant":
        client = QdrantClient(path=address)
        people = client.scroll("darec_users", limit=100, with_vectors=True)[0]
        vector = next(each.vector for each in people if each.payload["user_id"] == user)
        found = client.query_points("darec_items", query=vector, limit=K).points
        client.close()
        return [point.payload["item_id"] for point in found], np.array(vector, np.float32)
    if config.store == "milvus":
        with as_reader(config) as client:
            of_user = {"filter": f"user_id == '{user}'", "partition_names": ["users"], "output_fields": ["vector"]}
            (person,) = client.query("darec_release", **of_user)
            of_items = {"partition_names": ["items"], "output_fields": ["item_id"]}
            (found,) = client.search("darec_release", [person["vector"]], limit=K, **of_items)
        return [item["entity"]["item_id"] for item in found], np.array(person["vector"], np.float32)
    db = lancedb.connect(address)
    (row,) = db.open_table("darec_current").to_arrow().to_pylist()
    (person,) = db.open_table(row["users"]).search().where(f"user_id = '{user}'").to_list()
    found = db.open_table(row["items"]).search(person["vector"]).distance_type("dot").limit(K).to_list()
    return [item["item_id"] for item in found], np.array(person["vector"], np.float32)


@contextmanager
def as_reader(config: VectorsConfig) -> Iterator[MilvusClient]:
    """A client of Milvus Lite, as a program of its own has it."""
    client = MilvusClient(str(config.address), dedicated=True)
    client.load_collection("darec_release")
    yield client
    client.close()
    server_manager_instance.release_server(str(config.address))


def check_same_as_the_index(folder: Path, config: VectorsConfig) -> None:
    bundle = Bundle.open(Releases(folder).serving())
    vector = vectors_of(bundle.users(["u3"]))
    ids, _ = index.search(bundle.item_index, vector, K, index.nothing_seen())
    items, pushed = searched(config, "u3")
    assert items == bundle.items["item_id"].gather(ids[0]).to_list()
    np.testing.assert_allclose(pushed, vector[0], rtol=1e-6)


@pytest.mark.parametrize("kind", STORES)
def test_a_release_is_pushed_rolled_back_and_forgotten(kind, address, releases, tmp_path, monkeypatch):
    config = VectorsConfig(store=kind, address=address(kind), keep=1, index_from=10**6)
    newest, oldest = releases.all()
    assert served(tmp_path, config) is None
    assert follow(tmp_path, config).state == "pushed"
    check_same_as_the_index(tmp_path, config)
    assert (report := served(tmp_path, config)) and (report.users, report.items) == (30, 50)

    # The command lines that change what is in production bring the store along; the width of the vectors may differ.
    options = [f"runtime.store={tmp_path}", f"vectors.store={kind}", f"vectors.address={config.address}"]
    arguments = [part for option in options for part in ("--set", option)]
    shown = CliRunner().invoke(app, ["rollback", *arguments], catch_exceptions=False).output
    assert f"{kind}: {oldest.id} was pushed" in shown
    check_same_as_the_index(tmp_path, config)
    shown = CliRunner().invoke(app, ["promote", newest.id, *arguments], catch_exceptions=False).output
    assert f"{kind}: {newest.id} was switched to" in shown
    check_same_as_the_index(tmp_path, config)
    assert follow(tmp_path, config).reason == f"{newest.id} is served already"

    with open_store(config) as store:
        assert (store.holding("u7"), len(store.versions())) == (2, 2)
    counted = forget(Store(tmp_path), "u7", dry_run=True, vectors=config)
    assert counted.counts["rows of the vector store"] == 2
    assert forget(Store(tmp_path), "u7", vectors=config).counts["rows of the vector store"] == 2
    with open_store(config) as store:
        assert store.holding("u7") == 0 and store.holding("u8") == 2
    if kind == "lancedb":
        assert not [path for path in tmp_path.joinpath(kind).rglob("*.lance") if b"u7" in _bytes(path)]
    check_same_as_the_index(tmp_path, config)
    assert served(tmp_path, config), "what is left of the release is whole"

    publish(tmp_path, 2)
    removed = follow(tmp_path, config).removed
    with open_store(config) as store:
        assert len(removed) == 1 and len(store.versions()) == 2 and store.current() not in removed


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("kind", STORES)
def test_a_push_that_is_killed_leaves_the_old_release_and_the_next_one_repairs_it(kind, address, releases, tmp_path):
    config = VectorsConfig(store=kind, address=address(kind))
    follow(tmp_path, config)
    before = served_by(config)
    publish(tmp_path, 2)
    code = KILLED.format(side="items" if kind == "pgvector" else "users")
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), config.model_dump_json()], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert served_by(config) == before and served(tmp_path, config) is None
    assert follow(tmp_path, config).state == "pushed"
    check_same_as_the_index(tmp_path, config)


def lose_an_item(store, kind: str, version: str) -> None:
    """As a restored backup or a user of the store may do."""
    name = f"darec_items_{version}"
    if kind == "pgvector":
        store._db.execute(f"DELETE FROM {name} WHERE number = 3")
    elif kind == "qdrant":
        store._client.delete(name, [3])
    elif kind == "lancedb":
        store._db.open_table(name).delete("number = 3")
    else:
        store._client.delete(store._collection(version), filter="number == 3", partition_name="items")


@pytest.mark.parametrize("kind", STORES)
def test_readers_are_served_while_a_version_that_has_lost_rows_is_repaired(
    kind, address, releases, tmp_path, monkeypatch
):
    config = VectorsConfig(store=kind, address=address(kind))
    newest, oldest = releases.all()
    for release in (oldest, newest):
        releases.promote(release.id)
        follow(tmp_path, config)
    before, (items, _) = served_by(config), searched(config, "u3")
    with open_store(config) as store:
        lose_an_item(store, kind, before)

    with monkeypatch.context() as patch:
        patch.setattr(Version, "_items", lambda version: 1 / 0)
        with pytest.raises((ZeroDivisionError, DarecError)):
            follow(tmp_path, config)
    assert served_by(config) not in (None, before) and len(searched(config, "u3")[0]) == K
    assert follow(tmp_path, config).state == "pushed"
    assert (served_by(config), searched(config, "u3")[0]) == (before, items)


def test_the_last_releases_are_kept_also_after_the_clock_went_back(tmp_path, monkeypatch):
    config, names = VectorsConfig(store="lancedb", address=str(tmp_path / "lance"), keep=1), list[str | None]()
    for seed, days in ((1, 30), (2, 30), (3, 0), (4, 0)):
        clock = SimpleNamespace(now=lambda zone, days=days: datetime.now(zone) + timedelta(days))
        monkeypatch.setattr("darec.serving.releases.datetime", clock)
        publish(tmp_path, seed)
        follow(tmp_path, config)
        names.append(served_by(config))
    with open_store(config) as store:
        assert names[1] > names[3] and store.versions() == set(names[2:])


def test_the_query_of_the_docs_gives_the_list_of_darec(address, releases, tmp_path):
    config = VectorsConfig(store="pgvector", address=address("pgvector"))
    follow(tmp_path, config)
    query = Path("docs/vectors.md").read_text().partition("```sql\n")[2].partition("```")[0]
    with psycopg.connect(str(config.address)) as db:
        found = [item for item, _ in db.execute(query.replace("'42'", "'u5'"))]
    bundle = Bundle.open(Releases(tmp_path).serving())
    assert found == recommend(bundle, "u5", K)["item_id"].to_list()


def test_many_items_get_an_index(address, releases, tmp_path):
    config = VectorsConfig(store="pgvector", address=address("pgvector"), index_from=50)
    follow(tmp_path, config)
    with psycopg.connect(str(config.address)) as db:
        (definition,) = db.execute("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'").fetchone()
    assert "vector_ip_ops" in definition
    check_same_as_the_index(tmp_path, config)


def test_milvus_has_an_index_and_answers_the_program_of_the_docs(address, releases, tmp_path):
    config = VectorsConfig(store="milvus", address=address("milvus"), index_from=50)
    follow(tmp_path, config)
    program = Path("docs/vectors.md").read_text().partition("```python\ndef top_items")[2].partition("```")[0]
    exec(f"def top_items{program}", names := {"json": json})
    with as_reader(config) as client:
        assert client.describe_index("darec_release", "vector")["index_type"] == "HNSW"
        found = [item["item_id"] for item in names["top_items"](client, "u5")]
    bundle = Bundle.open(Releases(tmp_path).serving())
    assert found == recommend(bundle, "u5", K)["item_id"].to_list()

    with open_store(config) as store:
        assert store.holding('u7" or number >= 0 or user_id == "') == 0, "an id is no expression"

        # What a killed push leaves may contain the person, but cannot be searched.
        store._client.create_collection(store._collection("2020_01_01t0000z_x"), schema=store._schema(2))
        assert len(store.versions()) == 2
        store.forget("u7")
        assert store.versions() == {store.current()} and store.holding("u8") == 1


def test_milvus_limits_the_items_that_a_user_has_seen():
    block = pl.DataFrame({"number": [3], "seen": [list(range(5000))]})
    assert milvus._rows(block, "users").to_dicts() == [{"number": 3, "seen": list(range(4096)), "key": "users 3"}]


def test_a_folder_of_milvus_that_another_process_has_open(tmp_path):
    config = VectorsConfig(store="milvus", address=str(tmp_path / "new" / "vectors.db"))
    with open_store(config) as store:
        assert store.versions() == set()
    with MilvusLite(str(config.address)), pytest.raises(TransientError, match="Open local milvus failed"):
        served_by(config)


def test_a_whole_run_ends_with_the_vectors(monkeypatch, tmp_path):
    for name, fake in FAKES.items():
        monkeypatch.setitem(TASKS, name, fake)
    loaded = recipe(tmp_path / "store", vectors={"store": "lancedb", "address": str(tmp_path / "lance")})
    last = run_pipeline(loaded)[-1]
    assert (last.stage, last.state) == ("vectors", "pushed")
    assert {step.task.name: step.state for step in plan(loaded, Store(loaded.runtime.store))}["vectors"] == "hit"
    assert run_pipeline(loaded)[-1].cached


def test_a_store_that_does_not_answer_is_no_fault_of_the_release(releases, tmp_path, monkeypatch):
    monkeypatch.setattr(milvus, "_PATIENCE", 0.1)
    server = "http://127.0.0.1:1"
    for kind, nowhere in (("pgvector", "postgresql://127.0.0.1:1/x"), ("qdrant", server), ("milvus", server)):
        with pytest.raises(TransientError, match="run `darec push` again"):
            follow(tmp_path, VectorsConfig(store=kind, address=nowhere))
    with pytest.raises(TransientError, match="run `darec forget` again"):
        forget(Store(tmp_path), "u7", vectors=VectorsConfig(store="qdrant", address=server))
    assert "u7" in Bundle.open(Releases(tmp_path).serving()).user_ids()


def test_doctor_looks_at_the_release_and_at_the_vector_store(releases, tmp_path):
    options = [f"runtime.store={tmp_path}", "vectors.store=lancedb", f"vectors.address={tmp_path / 'lance'}"]
    loaded = load_recipe(None, options)

    def found() -> dict[str, tuple[str, str]]:
        return {each.what: (each.level, each.hint) for each in examine(loaded)}

    assert found()["release"][0] == "ok" and found()["vector store"] == ("missing", "run `darec push`")
    assert loaded.vectors is not None
    follow(tmp_path, loaded.vectors)
    assert found()["vector store"][0] == "ok"
    (releases.serving() / "items.faiss").unlink()
    level, hint = found()["release"]
    assert level == "missing" and "darec rollback" in hint and "vector store" not in found()


def test_passwords_come_from_the_environment_alone(releases, tmp_path, monkeypatch):
    with pytest.raises(ValidationError, match="must not contain a password"):
        VectorsConfig(address="postgresql://me:secret@host/db")
    assert VectorsConfig(address="postgresql://me@host/db").address == "postgresql://me@host/db"
    monkeypatch.delenv("DAREC_VECTORS", raising=False)
    with pytest.raises(UserError, match="has no address"):
        follow(tmp_path, VectorsConfig())
    monkeypatch.setenv("DAREC_VECTORS", "postgresql://me:secret@127.0.0.1:1/db")
    with pytest.raises(TransientError) as caught:
        follow(tmp_path, VectorsConfig())
    assert "secret" not in str(caught.value)
    with pytest.raises(DarecError, match="is illegal") as refused:
        follow(tmp_path, VectorsConfig(store="milvus"))
    assert "secret" not in str(refused.value)


def test_a_push_to_lancedb_that_was_killed_before_its_first_commit_is_done_again(tmp_path):
    Releases(tmp_path).publish(export(Store(tmp_path), contents(seed=0, width=12), {"recall@20": 0.3}).path, GATE)
    config = VectorsConfig(store="lancedb", address=str(tmp_path / "lance"))
    assert follow(tmp_path, config).state == "pushed"
    (users,) = (tmp_path / "lance").glob("darec_users_*.lance")
    shutil.rmtree(users / "_versions")
    with open_store(config) as store:
        assert store.holding("u0") == 0
    assert follow(tmp_path, config).state == "pushed"
    with open_store(config) as store:
        assert store.holding("u0") == 1
        shutil.rmtree(users / "_versions")
        store.forget("u0")
    assert not users.exists()
