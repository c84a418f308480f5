"""What the train stage says about its work."""

import re

import polars as pl
import pytest

from darec.artifacts.files import EMBEDDINGS
from darec.artifacts.store import Store
from darec.common.warnings import collected
from darec.model.propagation import Adjacency
from darec.serving.bundle import Bundle
from tests.report_samples import recipe, run

TRAIN = {"epochs": 1, "eval_every": 1, "dim": 8}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The folder of a store with a release, and the hash of its model."""
    folder = tmp_path_factory.mktemp("released")
    chosen = recipe(folder, train=TRAIN)
    keys = run(chosen)
    return folder, Store(chosen.runtime.store).artifact("train", keys["train"]).hashes["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"seed": 1}, True),
        ({"learning_rate": 0.1}, False),
        ({"text": {"use": "replace"}}, False),
        ({"warm_start": False}, False),
    ],
    ids=["same settings", "other seed", "other settings", "text for ids", "cold"],
)
def test_the_manifest_names_the_model_that_a_warm_start_took_rows_from(released, changes, taken):
    folder, model = released
    chosen = recipe(folder, train=TRAIN | {"warm_start": True} | changes)
    made = Store(chosen.runtime.store).artifact("train", run(chosen, until="train")["train"])
    assert made.manifest.report["warm_start"] == (model if taken else None)


def test_a_warm_start_after_another_split_would_know_the_test(released):
    folder, _ = released
    split = {"k_core": 1, "ratios": [0.6, 0.2, 0.2]}
    chosen = recipe(folder, train=TRAIN | {"warm_start": True}, split=split)
    with collected() as warnings:
        made = Store(chosen.runtime.store).artifact("train", run(chosen, until="train")["train"])
    assert made.manifest.report["warm_start"] is None
    assert any("other settings of `split`" in line for line in warnings)


def test_a_warm_start_does_not_know_interactions_that_are_held_out_now(tmp_path):
    """The times of all interactions are reversed at the source, so that the earliest ones are held out now."""
    chosen = recipe(tmp_path, train=TRAIN | {"warm_start": True})
    run(chosen)
    interactions = pl.read_csv(tmp_path / "interactions.csv")
    interactions.with_columns(-pl.col("timestamp") + 2 * pl.col("timestamp").max()).write_csv(
        tmp_path / "interactions.csv"
    )
    with collected() as warnings:
        made = Store(chosen.runtime.store).artifact("train", run(chosen, until="train")["train"])
    assert made.manifest.report["warm_start"] is None
    assert any(re.search(r"trained on \d+\.\d% of the interactions that are held out", line) for line in warnings)


def test_vectors_of_a_backbone_that_gives_its_parameters_are_written(tmp_path, monkeypatch):
    """Of matrix factorisation the id embeddings themselves are the final representations; it needs no graph."""
    for name in ("of_table", "normalised"):
        monkeypatch.setattr(Adjacency, name, lambda *_: pytest.fail("a graph was built"))
    chosen = recipe(tmp_path, train=TRAIN | {"backbone": {"name": "mf"}, "alignment": []})
    made = Store(chosen.runtime.store).artifact("train", run(chosen, until="train")["train"])
    assert EMBEDDINGS.of(made).user.shape[1] == TRAIN["dim"]


def test_a_release_says_how_the_chosen_settings_make_cold_vectors(tmp_path):
    """The recipe predicts them from texts, and its only candidate does not."""
    search = {"candidates": {"untrained": {"cold_start": "none"}}, "epochs": 1}
    chosen = recipe(tmp_path, train=TRAIN, search=search)
    assert chosen.train.predicts_cold_rows
    made = Store(chosen.runtime.store).artifact("export", run(chosen, until="export")["export"])
    assert Bundle.open(made.path).report.cold_vectors == "untrained"
