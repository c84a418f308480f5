"""The clock is moved by a year between two runs: what was is kept, what is new is published, rollback works."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from darec.ledger import Ledger
from darec.recipes import load_recipe
from darec.releases import Releases
from darec.retention import collect
from darec.store import Store
from stages.execute import Result
from stages.run import run
from tests.stores import recipe_for

YEAR = timedelta(days=365)
WITHOUT_WAITING = fcntl.LOCK_EX | fcntl.LOCK_NB
LEDGER = {"key": pl.String(), "text": pl.String()}


def age(store: Path, by: timedelta) -> None:
    """Makes all that is in the store look as if the clock had stood so much earlier when it was written."""
    for record in (store / "releases").glob("*.json"):
        content = json.loads(record.read_text())
        for event in content["events"]:
            event["at"] = (datetime.fromisoformat(event["at"]) - by).isoformat()
        record.write_text(json.dumps(content))
    for path in store.rglob("*"):
        if not path.is_symlink():
            when = path.stat().st_mtime - by.total_seconds()
            os.utime(path, (when, when))


def done(results: list[Result]) -> set[str]:
    return {result.stage for result in results if not result.cached}


@pytest.mark.parametrize("by", [YEAR, -YEAR], ids=["forward", "back"])
def test_hits_stay_hits_and_production_moves_on_and_back(tmp_path: Path, by: timedelta) -> None:
    path = recipe_for(tmp_path, tmp_path / "store")
    recipe, store = load_recipe(path), Store(tmp_path / "store")
    run(recipe)
    first = Releases(store.root).current()
    age(store.root, by)
    assert done(run(recipe)) == set()

    other = load_recipe(path, ["train.seed=1", "gate.tolerances={}"])
    run(other)
    second = Releases(store.root).current()
    assert first is not None and second is not None and second.id != first.id
    collect(store, releases=1, artifacts=1)
    assert done(run(other)) == set()
    assert Releases(store.root).rollback().id == first.id
    collect(store, releases=1, artifacts=1)
    assert done(run(recipe)) == set()
    assert {release.id for release in Releases(store.root).all()} == {first.id, second.id}


@pytest.mark.parametrize("by", [YEAR, -YEAR], ids=["forward", "back"])
def test_a_lease_ends_with_its_holder_whatever_the_clock_says(tmp_path: Path, by: timedelta) -> None:
    store = Store(tmp_path)
    code = "import sys, time; from darec.store import Store; from pathlib import Path\n"
    code += f"with Store(Path({str(tmp_path)!r})).lease('train-k'): print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    age(tmp_path, by)
    with pytest.raises(BlockingIOError), store.lease("train-k", WITHOUT_WAITING):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lease("train-k", WITHOUT_WAITING):
        pass


def test_a_ledger_goes_on_under_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, keys = Ledger(tmp_path, LEDGER), pl.Series("key", ["a", "b"])
    ledger.append(pl.DataFrame({"key": ["a"], "text": ["first"]}))
    monkeypatch.setattr("time.time_ns", lambda: 1)
    assert ledger.missing(keys).to_list() == ["b"]
    ledger.append(pl.DataFrame({"key": ["b"], "text": ["second"]}))
    assert dict(ledger.get(keys).iter_rows()) == {"a": "first", "b": "second"}


def test_checkpoints_outlive_a_clock_set_back_and_only_they_go_by_one_set_forward(tmp_path: Path) -> None:
    path = recipe_for(tmp_path, tmp_path / "store")
    recipe, store = load_recipe(path), Store(tmp_path / "store")
    run(recipe)
    checkpoint = store.work("train", "killed") / "checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("half a training")
    now = checkpoint.stat().st_mtime
    collect(store, 1, 1, now=now - YEAR.total_seconds())
    assert checkpoint.is_file()
    assert {removal.kind for removal in collect(store, 1, 1, now=now + YEAR.total_seconds()).removed} <= {"work"}
    assert not checkpoint.exists() and done(run(recipe)) == set()
