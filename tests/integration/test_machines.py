"""Whole runs of several machines on one store in an object store: processes with a cache each."""

import shutil
import threading
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from darec.artifacts.ledger import Ledger
from darec.artifacts.store import Store
from darec.text.models import models_root
from schemas.tables import PROFILE_ROWS
from tests.buckets import S3, configured
from tests.data import write_checkerboard
from tests.llm_stub import stub, well
from tests.machines import Machines
from tests.processes import wait_for
from tests.stores import ledger_keys

PROMPTS = Path("prompts").resolve()
USERS, ITEMS, AT_ONCE = 24, 16, 4
SEMANTIC = ("ingest", "split", "profile_items", "profile_users", "embed")
pytestmark = pytest.mark.skipif(
    not (models_root() / "all-minilm-l6-v2").is_dir(), reason="the text encoder is not fetched: darec models fetch"
)


@pytest.fixture(scope="module")
def server():
    with S3().served() as server, configured(server):
        yield server


@pytest.fixture(scope="module")
def llm():
    with stub(well) as server:
        yield server


@pytest.fixture(scope="module")
def machines(server, llm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machines")
    write_checkerboard(folder, users=USERS, items=ITEMS)
    shutil.copytree(PROMPTS, folder / "prompts")
    recipe = {
        "data": {
            "source": "csv",
            "interactions": "interactions.csv",
            "items": "items.csv",
            "users": "users.csv",
            "interaction_columns": {"rating": "rating", "timestamp": "timestamp"},
        },
        "split": {"k_core": 1},
        "llm": {"engine": "server", "server_url": llm.url, "model": "stub", "concurrency": AT_ONCE},
        "train": {"epochs": 4, "eval_every": 2, "dim": 8},
        "gate": {"minimums": {}, "tolerances": {}},
        "runtime": {"store": server.new_bucket(), "min_free_gb": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    started = Machines(folder, {"DAREC_MODELS": str(models_root().resolve())})
    yield started
    started.end()


def rows_sent(store: Store) -> int:
    """Answers of the LLM that machines have sent to the shared store so far."""
    ledger = store.ledger / "profiles.sqlite"
    Ledger(ledger, PROFILE_ROWS).missing(pl.Series("key", ["any"]))  # which looks for what others have sent
    return len(ledger_keys(ledger))


def test_two_that_run_at_once_build_every_stage_once_and_a_third_downloads_what_it_needs(machines, server, llm):
    runs = [machines.start(name, "publish") for name in ("a", "b")]
    built = Counter(stage for run in runs for stage, state in run.states().items() if state != "cached")

    assert set(built.values()) == {1}, built
    assert {*SEMANTIC, "train", "export", "publish"} <= built.keys()
    assert len(llm.asked) == USERS + ITEMS

    server.forget()
    states = machines.start("c", "publish").states()
    assert set(states.values()) == {"cached"}
    assert [path.rpartition("/")[2] for path in server.sent if "/files/" in path] == ["report.json"]
    assert sum(server.sent.values()) < 300_000
    assert server.requests.total() < 150


def test_the_lease_of_a_killed_machine_is_taken_over_and_what_it_paid_for_is_kept(
    machines, server, llm, tmp_path, monkeypatch
):
    stuck = threading.Event()
    before = len(llm.asked)

    def behave(request, handler) -> None:
        if len(llm.asked) - before > ITEMS + USERS // 2:
            stuck.wait(600)
        well(request, handler)

    llm.behave = behave
    store = [f"runtime.store={server.new_bucket()}"]
    first = machines.start("a", "publish", store, lease_seconds=8)
    assert wait_for(lambda: len(llm.asked) - before >= ITEMS + USERS // 2 + AT_ONCE)
    second = machines.start("b", "embed", store)
    monkeypatch.setenv("DAREC_CACHE", str(tmp_path / "cache"))
    watching = Store(store[0].partition("=")[2])
    assert wait_for(lambda: rows_sent(watching) >= ITEMS + USERS // 2 - AT_ONCE)
    first.kill()
    llm.behave = well
    stuck.set()

    states = second.states()
    assert states["profile_items"] == "cached"
    assert states["profile_users"] == "done"
    assert len(llm.asked) - before <= ITEMS + USERS + 2 * AT_ONCE

    asked = len(llm.asked)
    states = machines.start("a", "publish", store).states()
    assert {states[stage] for stage in SEMANTIC} == {"cached"}
    assert states["train"] == "done"
    assert states["publish"] == "published"
    assert len(llm.asked) == asked
