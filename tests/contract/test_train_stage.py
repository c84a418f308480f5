"""What the train stage says about its work."""

import pytest

from darec.artifacts.files import EMBEDDINGS
from darec.artifacts.store import Store
from darec.model.propagation import Adjacency
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


def test_vectors_of_a_backbone_that_gives_its_parameters_are_written(tmp_path, monkeypatch):
    """Of matrix factorisation the id embeddings themselves are the final representations; it needs no graph."""
    for name in ("of_table", "normalised"):
        monkeypatch.setattr(Adjacency, name, lambda *_: pytest.fail("a graph was built"))
    chosen = recipe(tmp_path, train=TRAIN | {"backbone": {"name": "mf"}, "alignment": []})
    made = Store(chosen.runtime.store).artifact("train", run(chosen, until="train")["train"])
    assert EMBEDDINGS.of(made).user.shape[1] == TRAIN["dim"]
