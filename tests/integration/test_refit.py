"""Releases that were trained on all interactions: what they hold, what is judged, and what gc keeps for later gates."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from darec.artifacts import files
from darec.artifacts.store import Artifact, Store
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.comparison import ChallengerRun, Model
from darec.serving.evidence import gather
from darec.serving.gate import decide
from darec.serving.releases import Releases
from darec.serving.retention import collect
from schemas.recipe import Recipe
from schemas.release import Evidence, GateConfig
from stages.plan import plan
from stages.walk import run
from tests.data import write_tastes
from tests.integration.test_gate_nights import TRAIN, add_noise
from tests.stores import contents

METRIC = "recall@20"


def recipe(folder: Path, **train) -> dict:
    data = {"source": "csv", "interactions": str(folder / "interactions.csv")}
    data["interaction_columns"] = {"timestamp": "timestamp"}
    runtime = {"store": str(folder / "store"), "min_free_gb": 0}
    settings = {"warm_start": False, "refit": "all", "epochs": 90, "learning_rate": 0.03, "patience": 2}
    return {"data": data, "train": TRAIN | settings | train, "runtime": runtime}


def night(folder: Path, **train):
    """Runs a night; its results by stage."""
    return {result.stage: result for result in run(Recipe.model_validate(recipe(folder, **train)))}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refit")
    write_tastes(folder)
    return folder, night(folder)


def test_the_release_has_seen_everything_and_its_metrics_are_those_of_the_judged_model(first):
    folder, results = first
    release = Releases(folder / "store").current()
    assert release is not None and release.report.trained_on == "all"
    assert results["refit"].report.interactions == 400 * 25 > results["train"].report.interactions

    bundle = Bundle.open(Releases(folder / "store").serving())
    judged = files.EMBEDDINGS.of(results["train"].artifact)
    refitted = files.REFIT_EMBEDDINGS.of(results["refit"].artifact)
    released = vectors_of(pl.read_parquet(bundle.folder / "items.parquet"))
    np.testing.assert_array_equal(released, refitted.item)
    assert not np.array_equal(refitted.item, judged.item)
    assert bundle.items["train_count"].sum() == 400 * 25, "popularity counts all interactions"
    assert bundle.report.interactions == 400 * 25
    assert release.report.metrics[METRIC] == results["evaluate"].report.test[METRIC]
    assert release.evidence.current is None


def test_the_refit_runs_for_the_epochs_that_validation_found(first):
    _, results = first
    best = results["train"].report.best_epoch
    assert best < results["train"].report.epochs, "otherwise this test shows nothing"
    report = results["refit"].report
    assert (report.epochs, report.best_epoch, report.validation) == (best, best, {})


def test_turning_it_on_or_off_makes_no_earlier_artifact_stale(first):
    folder, results = first
    chosen = Recipe.model_validate(recipe(folder, refit="none"))
    steps = {step.task.name: step for step in plan(chosen, Store(folder / "store"))}
    assert "refit" not in steps
    assert {name for name, step in steps.items() if step.state != "hit"} == {"export", "publish"}
    assert steps["train"].key == results["train"].artifact.key


@pytest.fixture
def second(tmp_path):
    """Two nights, both refitted; on the second the latest interactions of many users are new."""
    write_tastes(tmp_path)
    night(tmp_path)
    add_noise(tmp_path, 300, new_users=0, new_items=0)
    return tmp_path, night(tmp_path)


def test_a_refitted_champion_does_not_win_by_the_test_that_it_was_trained_on(second):
    folder, results = second
    releases = Releases(folder / "store")
    challenger, champion = releases.all()
    found = challenger.evidence.current.metrics[METRIC]

    # The bundle that is served was trained on most of this run's test: compared with it, any model would be refused.
    split = results["split"].artifact
    this_run = ChallengerRun(
        Model("new", *judged_sides(results)), files.TRAIN_PART.of(split), files.TEST_PART.of(split)
    )
    leaky = this_run.compare(Model.of_bundle("leaky", releases.folder(champion)), [METRIC], Recipe().evaluate, 10_000)
    assert leaky.metrics[METRIC].other > 1.5 * found.other
    gate = GateConfig(tolerances={METRIC: 0.05}, minimums={})
    refused = decide(challenger.report, champion.report, gate, Evidence(current=leaky))
    assert not refused.passed

    assert leaky.metrics[METRIC].challenger == pytest.approx(found.challenger, rel=1e-6), "the challenger is judged too"
    assert challenger.state == "published" and abs(found.challenger - found.other) < 0.1 * found.other


def judged_sides(results):
    split, vectors = results["split"].artifact, files.EMBEDDINGS.of(results["train"].artifact)
    names = (files.USER_VOCABULARY.of(split), files.ITEM_VOCABULARY.of(split))
    for vocabulary, rows in zip(names, vectors, strict=True):
        number, _ = vocabulary.columns
        column = pl.Series("vector", rows, dtype=pl.Array(pl.Float32, rows.shape[1]))
        yield vocabulary.sort(number).drop(number).with_columns(column).lazy()


def test_gc_keeps_the_judged_vectors_of_every_release_that_a_gate_still_compares(second):
    folder, _ = second
    store, releases = Store(folder / "store"), Releases(folder / "store")
    add_noise(folder, 300, new_users=0, new_items=0, seed=1)
    night(folder)
    oldest = releases.all()[-1]
    lineage = {stage: r.key for stage, r in Artifact(releases.folder(oldest)).manifest.inputs.items()}
    collect(store, releases=1, artifacts=1)  # rollback goes to the second night; only the floor needs the first
    assert {a.key for a in store.artifacts("train")} >= {lineage["train"]}
    assert store.artifact("split", lineage["split"]).path.is_dir()
    assert not store.artifact("refit", lineage["refit"]).path.is_dir(), "nothing compares what was refitted"

    add_noise(folder, 300, new_users=0, new_items=0, seed=2)
    night(folder)
    latest = releases.all()[0]
    assert [each.against for each in latest.evidence.best] == [r.id for r in releases.all()[2:]]
    assert all(found.metrics[METRIC].other < 1.2 * found.metrics[METRIC].challenger for found in latest.evidence.best)


def test_without_its_judged_vectors_a_refitted_champion_is_judged_by_its_own_nights_figures(second):
    folder, results = second
    store, releases = Store(folder / "store"), Releases(folder / "store")
    champion = releases.all()[1]
    key = Artifact(releases.folder(champion)).manifest.inputs["train"].key
    store.remove(store.artifact("train", key))
    bundle = results["export"].artifact
    evidence = gather(store, bundle, champion, (champion,), GateConfig(tolerances={METRIC: 0.05}), Recipe().evaluate)
    assert evidence.current is None and evidence.best == ()
    assert evidence.why_not.startswith("the input train of ")


def test_a_warm_start_begins_with_the_judged_model_and_not_with_the_refitted_one(tmp_path):
    write_tastes(tmp_path)
    first = night(tmp_path, warm_start=True)
    add_noise(tmp_path, 300, new_users=0, new_items=0)
    results = night(tmp_path, warm_start=True)
    judged = first["train"].artifact.hashes["model.safetensors"]
    assert results["train"].report.warm_start == judged
    assert results["refit"].report.warm_start == judged, "the refit repeats what training did, with more data"


KILLED = """
import os, signal, sys
from pathlib import Path
from darec.common.progress import Silent
from darec.common.recipes import load_recipe
from stages.walk import run

class Killer(Silent):
    trainings = epochs = 0
    def start(self, label, total, unit="rows"):
        self.trainings += label == "train"
        self.epochs = 0
    def advance(self, count=1, note=""):
        self.epochs += count
        if self.trainings == 2 and self.epochs == 3:
            os.kill(os.getpid(), signal.SIGKILL)

run(load_recipe(Path(sys.argv[1])), progress=Killer())
"""


def test_a_refit_that_is_killed_goes_on_from_its_checkpoint_to_the_same_bytes(tmp_path):
    write_tastes(tmp_path)
    stores = {}
    for name in ("whole", "killed"):
        chosen = recipe(tmp_path, checkpoint_every=1) | {"runtime": {"store": str(tmp_path / name), "min_free_gb": 0}}
        stores[name] = tmp_path / f"{name}.yaml"
        stores[name].write_text(yaml.safe_dump(chosen))
    run(load_recipe(stores["whole"]))

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(stores["killed"])]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert Releases(tmp_path / "killed").current() is None
    assert list((tmp_path / "killed" / "work" / "refit").rglob("checkpoint.safetensors"))
    run(load_recipe(stores["killed"]))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
