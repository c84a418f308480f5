"""The benchmark of refitting: who is measured on what, and how the cuts are put together."""

from pathlib import Path

import polars as pl
import pytest
import torch

from benchmarks.refit import Cut, measure, pooled, table
from darec.evaluation.protocol import Scores
from schemas.recipe import Recipe
from tests.data import write_tastes


def test_the_days_after_a_cut_are_foreseen_by_models_that_never_saw_them(tmp_path: Path) -> None:
    write_tastes(tmp_path, users=60, items=60, each=12)
    data = {"source": "csv", "interactions": str(tmp_path / "interactions.csv")}
    data["interaction_columns"] = {"timestamp": "timestamp"}
    train = {"alignment": [], "dim": 8, "epochs": 6, "eval_every": 2}
    recipe = Recipe.model_validate({"data": data, "train": train, "runtime": {"store": str(tmp_path / "store")}})
    [cut] = measure(recipe, [0.7], days=30)

    log = pl.read_csv(tmp_path / "interactions.csv").sort("timestamp", "user_id", "item_id")
    moment = log["timestamp"][int(0.7 * (log.height - 1))]
    later = log.filter(pl.col("timestamp") > moment, pl.col("timestamp") <= moment + 30 * 86_400)
    assert set(cut.users) <= set(later["user_id"]) and len(cut.users) > 20
    assert cut.known <= log.filter(pl.col("timestamp") <= moment).height
    assert {name: len(scores.users) for name, scores in cut.scores.items()} == dict.fromkeys(
        ("popularity", "evaluated", "refitted", "refitted from evaluated"), len(cut.users)
    )
    assert "| all cuts, mean over users |" in table([cut])


def test_a_user_of_several_cuts_counts_once_with_the_mean_of_them() -> None:
    def cut(users: list[str], values: list[float]) -> Cut:
        rows = {name: torch.tensor(values, dtype=torch.float64) for name in ("recall@20", "ndcg@20")}
        return Cut(1, 1, pl.Series(users), {"evaluated": Scores(torch.arange(len(users)), rows)})

    found = pooled([cut(["ann", "bob"], [0.2, 1.0]), cut(["cat", "ann"], [0.0, 0.6])], "evaluated")
    assert found.values["recall@20"].tolist() == pytest.approx([0.4, 1.0, 0.0])
