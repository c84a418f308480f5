"""A search over a whole-run recipe: each trial makes what its choices change, and reaches what a run would reach."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from darec.artifacts.store import Store
from darec.common.errors import TransientError, UserError
from darec.common.recipes import load_recipe
from pipelines.cli import app
from schemas.recipe import Recipe
from stages import registry
from stages.contract import Outcome, StageContext
from stages.walk import run
from tests.data import write_checkerboard
from tests.stores import recipe_for

TRAIN = {"epochs": 4, "eval_every": 2, "dim": 8, "backbone": {"name": "lightgcn", "edge_keep": 1.0}}
SPACE = {
    "graph.weighting": {"kind": "choice", "values": ["symmetric", "none"]},
    "train.learning_rate": {"kind": "float", "low": 1e-5, "high": 0.1, "log": True},
}


def write_noise(folder: Path) -> None:
    """Who likes what is drawn by lot: a recall between none and all tells one model from another."""
    write_checkerboard(folder, users=200, items=100)
    path = folder / "interactions.csv"
    board = pl.read_csv(path)
    board.with_columns(pl.col("item_id").shuffle(seed=0)).unique(["user_id", "item_id"], maintain_order=True).write_csv(
        path
    )


def tune(folder: Path, **values: Any) -> Result:
    """`darec tune` over noise, by stages that need no LLM."""
    if not (folder / "data").is_dir():
        write_noise(folder / "data")
    data = str(recipe_for(folder, folder / "store"))
    defaults = {"name": "t", "data": {"board": data}, "base": {"train": TRAIN}, "space": SPACE, "trials": 4, "seed": 1}
    (folder / "tune.yaml").write_text(yaml.safe_dump(defaults | values))
    return CliRunner().invoke(app, ["tune", str(folder / "tune.yaml"), "--out", str(folder / "studies")])


def best(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "studies" / "t" / "best.yaml").read_text())["t"]


@pytest.mark.parametrize("weighting", ["symmetric", "none"])
def test_a_run_with_the_best_values_reaches_what_their_trial_did(tmp_path: Path, weighting: str) -> None:
    space = SPACE | {"graph.weighting": {"kind": "choice", "values": [weighting]}}
    result = tune(tmp_path, space=space, trials=2)
    assert result.exit_code == 0, result.output
    assert best(tmp_path)["set"]["graph.weighting"] == weighting
    settings = {f"train.{name}": value for name, value in TRAIN.items()} | best(tmp_path)["set"]
    recipe = load_recipe(tmp_path / "store.yaml", [f"{path}={value}" for path, value in settings.items()])
    reached = run(recipe, "train")[-1].report.validation["recall@20"]
    assert 0 < reached < 1 and reached == best(tmp_path)["validation recall@20"]


def test_only_what_a_trial_changes_is_made_anew(tmp_path: Path) -> None:
    result = tune(tmp_path)
    assert result.exit_code == 0, result.output
    assert best(tmp_path)["trials"] == 4
    made = [artifact.stage for artifact in Store(tmp_path / "store").artifacts()]
    assert sorted(made) == ["graph", "graph", "ingest", "split"], "two weightings, and nothing that training leaves"


def test_a_trial_whose_stage_failed_for_a_passing_reason_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, failed = registry.STAGES["graph"], list[Recipe]()

    def fails_once(context: StageContext) -> Outcome:
        if context.recipe.graph.weighting == "none" and not failed:
            failed.append(context.recipe)
            raise TransientError("a server is away")
        return whole.load().run(context)

    monkeypatch.setitem(registry.TASKS, "graph", replace(whole, body=SimpleNamespace(run=fails_once)))
    space = SPACE | {"graph.weighting": {"kind": "choice", "values": ["none"]}}
    assert isinstance(tune(tmp_path, space=space, trials=1).exception, TransientError)
    assert tune(tmp_path, space=space, trials=1).exit_code == 0
    assert best(tmp_path)["trials"] == 1
    assert best(tmp_path)["set"]["train.learning_rate"] == failed[0].train.learning_rate


@pytest.mark.parametrize("path", ["split.k_core", "data.min_rating", "gate.minimums"])
def test_what_is_held_out_is_the_same_for_every_trial(tmp_path: Path, path: str) -> None:
    result = tune(tmp_path, space={path: {"kind": "int", "low": 1, "high": 5}})
    assert isinstance(result.exception, UserError)
    assert f"cannot change '{path}'" in str(result.exception)
    assert not (tmp_path / "store").exists()
