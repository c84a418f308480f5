"""Processes whose wall clock is moved by a month: what was is kept, what is new is published, rollback works."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from darec.artifacts.ledger import Ledger
from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from darec.serving.releases import Releases
from darec.serving.retention import collect
from schemas.tables import TableSchema
from stages.walk import run
from tests.nursery import Commands
from tests.processes import unconfigured
from tests.stores import recipe_for

MONTH, NOTHING = timedelta(days=30), timedelta()
SOURCE = Path(__file__).parents[1] / "moved_clock.c"
WITHOUT_WAITING = fcntl.LOCK_EX | fcntl.LOCK_NB
LEDGER = TableSchema({"key": pl.String(), "text": pl.String()})


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that moves the clock of the processes that load it."""
    if shutil.which("cc") is None:
        pytest.skip("NO CLOCK WAS MOVED: there is no C compiler")
    library = tmp_path_factory.mktemp("clock") / "moved_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return library


def clock(shim: Path, by: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is moved."""
    kept = unconfigured()
    return kept | {"LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(int(by.total_seconds()))}


class Machine:
    """darec's commands on one store, each under a clock of its own."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.releases, self._commands = Releases(folder / "store"), commands

    def darec(self, by: timedelta, *arguments: str, seed: int) -> str:
        """What the command printed."""
        settings = [f"train.seed={seed}", "gate.tolerances={}", "runtime.keep_releases=1", "runtime.keep_artifacts=1"]
        overrides = [word for setting in settings for word in ("--set", setting)]
        done = self._commands.call(*arguments, *overrides, CLOCK_SHIFT=str(int(by.total_seconds())))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def publish(self, by: timedelta, seed: int) -> str:
        """The id of the release that a run made."""
        self.darec(by, "run", seed=seed)
        current = self.releases.current()
        assert current is not None
        return current.id

    def status(self, by: timedelta, seed: int) -> dict[str, dict[str, Any]]:
        steps = json.loads(self.darec(by, "status", "--json", seed=seed))
        return {step["stage"]: step for step in steps}

    def all_hits(self, by: timedelta, seed: int) -> bool:
        return {step["state"] for step in self.status(by, seed).values()} == {"hit"}

    def listed(self, by: timedelta) -> list[tuple[str, str]]:
        rows = json.loads(self.darec(by, "releases", "--json", seed=0))
        return [(row["id"], row["state"]) for row in rows]


@pytest.fixture
def machine(tmp_path: Path, shim: Path) -> Iterator[Machine]:
    recipe = recipe_for(tmp_path, tmp_path / "store")
    environment = clock(shim, NOTHING) | {"PREFECT_HOME": str(tmp_path / "prefect"), "DAREC_RECIPE": str(recipe)}
    with Commands(tmp_path, environment, tmp_path) as commands:
        yield Machine(tmp_path, commands)


@pytest.mark.timeout(900)
def test_a_month_ahead_then_a_month_back_then_right(machine: Machine) -> None:
    ahead = machine.publish(MONTH, seed=0)
    assert machine.all_hits(-MONTH, seed=0)
    assert machine.publish(-MONTH, seed=0) == ahead  # everything is a hit

    back = machine.publish(-MONTH, seed=1)
    right = machine.publish(NOTHING, seed=2)
    assert ahead[:10] > right[:10] > back[:10], "the ids tell the days of the moved clocks"
    order = [(right, "current"), (back, "published"), (ahead, "published")]
    assert [machine.listed(by) for by in (MONTH, -MONTH)] == [order, order]

    machine.darec(-MONTH, "run", "--until", "train", seed=3)
    assert machine.status(NOTHING, seed=4)["train"]["why"] == "train.seed: 3 -> 4"  # beside what was made last
    machine.darec(MONTH, "gc", seed=2)
    assert machine.status(NOTHING, seed=3)["train"]["state"] == "hit"
    assert machine.all_hits(-MONTH, seed=2)
    assert machine.status(MONTH, seed=0)["train"]["state"] == "stale", "the release before the last two is gone"

    machine.darec(-MONTH, "rollback", seed=2)
    assert machine.listed(MONTH) == [(right, "rolled back"), (back, "current"), (ahead, "published")]
    assert machine.all_hits(MONTH, seed=1)
    machine.darec(-MONTH, "gc", seed=1)
    assert machine.all_hits(NOTHING, seed=1)


@pytest.mark.parametrize("by", [MONTH, -MONTH], ids=["ahead", "back"])
def test_a_lease_ends_with_its_holder_whatever_the_clocks_say(tmp_path: Path, shim: Path, by: timedelta) -> None:
    store = Store(tmp_path)
    code = "import sys, time; from darec.artifacts.store import Store; from pathlib import Path\n"
    code += f"with Store(Path({str(tmp_path)!r})).lease('train-k'): print(time.time(), flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=clock(shim, by))
    assert holder.stdout is not None
    theirs, ours = float(holder.stdout.readline()), (tmp_path / "leases" / "train-k.lock").stat().st_mtime
    assert theirs - ours == pytest.approx(by.total_seconds(), abs=60), "the holder's clock is moved, ours is not"
    with pytest.raises(BlockingIOError), store.lease("train-k", WITHOUT_WAITING):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with store.lease("train-k", WITHOUT_WAITING):
        pass


def test_a_ledger_goes_on_under_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, keys = Ledger(tmp_path / "rows.sqlite", LEDGER), pl.Series("key", ["a", "b"])
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
    collect(store, 1, 1, now=now - MONTH.total_seconds())
    assert checkpoint.is_file()
    assert {removal.kind for removal in collect(store, 1, 1, now=now + MONTH.total_seconds()).removed} <= {"work"}
    assert not checkpoint.exists()
    assert all(result.cached for result in run(recipe))
