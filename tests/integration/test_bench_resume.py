"""A benchmark that is killed continues: finished runs are hits, an interrupted one continues from its checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks.data import from_folder
from benchmarks.grid import expand
from benchmarks.results import collect
from benchmarks.runs import STAGE, Run, run_grid
from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.progress import Silent
from darec.common.recipes import load
from darec.training import train
from pipelines.cli.bench import app
from schemas.bench import BenchRecipe
from tests.bench_samples import write_recipe


def start(recipe: Path, store: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "bench", "run", str(recipe)]
    return subprocess.Popen(
        [*command, "--store", str(store), "--out", str(store.parent / "out")],
        stdout=subprocess.PIPE,
        text=True,
    )


def runs_of(recipe: Path) -> list[Run]:
    loaded = load(BenchRecipe, recipe)
    data = from_folder("board", recipe.parent / "board")
    return [Run(entry, data, loaded.evaluate) for entry in expand(loaded)]


def test_a_killed_benchmark_goes_on(tmp_path):
    recipe, store = write_recipe(tmp_path), Store(tmp_path / "store")
    long = tmp_path / "long.yaml"
    long.write_text(recipe.read_text().replace("epochs: 4", "epochs: 100000\n  patience: 100000"))
    one, endless = runs_of(recipe)[0], runs_of(long)[0]
    assert [result.cached for _, result in run_grid([one], store, Silent())] == [False]
    process = start(long, store.root)
    checkpoint = store.work(STAGE, endless.key) / "checkpoint.safetensors"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists()
    assert [artifact.key for artifact in store.artifacts(STAGE)] == [one.key], "nothing half-made is visible"

    made = store.artifact(STAGE, one.key).manifest.created
    results = list(run_grid(runs_of(recipe), store, Silent()))
    assert [result.cached for _, result in results] == [True, False, False, False]
    assert store.artifact(STAGE, one.key).manifest.created == made
    assert collect(runs_of(recipe), store).methods("board") == [("lightgcn", "none"), ("lightgcn", "darec")]


def only(results):
    """The result of a grid of one run."""
    [(_, result)] = results
    return result


class KilledError(Exception):
    pass


class KilledAtThree(Silent):
    epochs = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.epochs += count
        if self.epochs == 3:
            raise KilledError


def test_a_resumed_run_gives_the_same_numbers(tmp_path):
    recipe = write_recipe(tmp_path)
    run, whole, broken = runs_of(recipe)[1], Store(tmp_path / "whole"), Store(tmp_path / "broken")
    expected = only(run_grid([run], whole, Silent())).artifact

    with pytest.raises(KilledError):
        list(run_grid([run], broken, KilledAtThree()))
    result = only(run_grid([run], broken, Silent()))
    artifact, cached = result.artifact, result.cached
    assert not cached
    assert artifact.hashes == expected.hashes


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    """The key leaves defaults out, so a run that was killed under other defaults left its checkpoint in its place."""
    recipe = write_recipe(tmp_path)
    run, whole, broken = runs_of(recipe)[1], Store(tmp_path / "whole"), Store(tmp_path / "broken")
    expected = only(run_grid([run], whole, Silent())).artifact
    checkpoint = broken.work(STAGE, run.key) / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    before = run.entry.config.model_copy(update={"l2": 0.5})
    with pytest.raises(KilledError):
        train(before, run.data.interactions, run.data.text, resume=checkpoint, progress=KilledAtThree())
    assert checkpoint.exists()
    artifact = only(run_grid([run], broken, Silent())).artifact
    assert artifact.hashes == expected.hashes


def test_the_command_writes_tables_and_says_what_was_cached(tmp_path):
    recipe, store = write_recipe(tmp_path), tmp_path / "store"
    list(run_grid(runs_of(recipe)[:3], Store(store), Silent()))
    options = ["--store", str(store), "--out", str(tmp_path / "out"), "--only", "none", "--seeds", "0,1"]
    result = CliRunner().invoke(app, ["run", str(recipe), *options])
    assert result.exit_code == 0
    assert result.output.count("(cached)") == 2
    metrics = pl.read_parquet(Store(store).find(STAGE, runs_of(recipe)[0].key).path / "metrics.parquet")
    value = metrics.filter(part="val", metric="recall@20")["value"].item()
    assert f"validation Recall@20 {value:.4f}" in result.output, "choices are made by validation"
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| lightgcn | none | 2 |" in table
    assert (tmp_path / "out" / "results.parquet").is_file()


@pytest.mark.parametrize(("option", "names"), [("--seeds", "0,7"), ("--only", "none,darek")])
def test_a_name_that_no_entry_has_is_refused(tmp_path, option, names):
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path)), option, names])
    assert isinstance(result.exception, UserError)
    assert result.exception.what == f"no entry is named {names.split(',')[1]}"
