"""Closed-form models instead of a trained backbone: one contract, from the configuration to a release."""

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from darec.artifacts.store import Store
from darec.evaluation.protocol import popularity, rank
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from darec.training import train
from schemas.backbones import CLOSED_FORMS, ClosedFormConfig, EASEConfig
from schemas.section import hashed
from schemas.training import TrainConfig
from tests.checkerboard import checkerboard, found_first, parity_text
from tests.report_samples import recipe, run

every_closed_form = pytest.mark.parametrize("name", CLOSED_FORMS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


def config(name: str, **changes) -> TrainConfig:
    return TrainConfig.model_validate({"backbone": {"name": name}, "dim": 4, **changes})


@pytest.mark.parametrize("name", [name for name in CLOSED_FORMS if name != "popularity"])
def test_it_finds_the_item_that_is_left(name, data):
    heard = []
    text = parity_text(data)
    trained = train(config(name), data, text, listener=lambda epoch, values: heard.append((epoch, values)))
    assert found_first(trained, data) == 1
    assert trained.final.nodes.shape == (data.n_nodes, 4)
    assert (trained.epochs, trained.best_epoch, trained.state) == (1, 1, {})
    assert heard == [(1, trained.validation)]
    assert dict(trained.history.select("name", "value").iter_rows()) == {
        f"val/{metric}": pytest.approx(value) for metric, value in trained.validation.items()
    }


def test_popularity_ranks_by_train_interactions(data):
    trained = train(config("popularity", dim=1), data)
    expected = popularity(data.train, data.n_users, data.n_items)
    found = (rank(each, data.train, data.val, 20).top for each in (trained.final, expected))
    assert torch.equal(*found)


@every_closed_form
def test_equal_seeds_give_equal_bits_and_the_global_generator_is_left_alone(name, data):
    before = torch.get_rng_state()
    first, second = (train(config(name, seed=3), data, parity_text(data)).final.nodes for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@every_closed_form
def test_it_has_no_alignment_and_refuses_one(name):
    assert config(name).alignment == ()
    assert config(name).needs_text == (name == "l3ae")
    assert isinstance(config(name).backbone, ClosedFormConfig)
    for changes in ({"alignment": [{"name": "darec"}]}, {"text": {"use": "add"}}, {"scoring": "cosine"}):
        with pytest.raises(ValidationError, match="has a closed-form solution"):
            config(name, **changes)


def test_without_text_l3ae_is_ease_and_the_others_are_themselves():
    assert config("l3ae", dim=9).without_text() == config("ease", dim=9)
    assert config("ials").without_text() == config("ials")
    trained = TrainConfig.model_validate({"backbone": {"name": "simgcl"}, "warm_start": True, "text": {"use": "add"}})
    plain = trained.without_text()
    assert (plain.alignment, plain.text.use, plain.warm_start) == ((), "none", False)
    assert plain.backbone == trained.backbone
    assert not plain.needs_text


@pytest.mark.parametrize("cold_start", ["neighbours", "history"])
def test_the_reference_is_the_same_for_any_vectors_of_new_items(cold_start):
    plain = TrainConfig.model_validate({"dim": 9}).without_text()
    assert TrainConfig.model_validate({"dim": 9, "cold_start": cold_start, "cold_loss": 0.5}).without_text() == plain
    none = TrainConfig.model_validate({"dim": 9, "cold_start": "none"})
    assert none.without_text().cold_start == "none", "as in stores of version 0.1"


def test_the_reference_of_a_student_has_the_same_teacher_without_text(data):
    teacher = {"name": "linear-teacher", "model": {"name": "l3ae", "graph": 0.3}, "sharpness": 3}
    student = {"ranking_weight": 0, "dim": 4, "epochs": 30, "learning_rate": 0.05}
    taught = TrainConfig.model_validate(student | {"alignment": [teacher, {"name": "darec"}]})
    plain = taught.without_text()
    assert taught.needs_text and not plain.needs_text and plain.learns
    assert plain == TrainConfig.model_validate(
        student | {"alignment": [teacher | {"model": {"name": "ease", "graph": 0.3}}]}
    )
    assert set(train(plain, data).history["name"]) >= {"loss/linear-teacher"}, "it is trained without text vectors"

    by_default = TrainConfig.model_validate({"alignment": [{"name": "linear-teacher", "l2": 30, "text": 20}]})
    assert by_default.without_text().alignment[0].model == EASEConfig(l2=30)


def test_a_reference_without_any_objective_left_has_the_ranking_loss():
    only_text = TrainConfig.model_validate({"ranking_weight": 0, "alignment": [{"name": "darec"}]})
    assert only_text.without_text() == TrainConfig.model_validate({"alignment": []})


def test_a_teacher_of_version_0_1_keeps_its_key():
    teacher = TrainConfig.model_validate({"alignment": [{"name": "linear-teacher"}]})
    assert "model" not in hashed(teacher)["alignment"][0]
    named = TrainConfig.model_validate({"alignment": [{"name": "linear-teacher", "model": {"name": "l3ae"}}]})
    assert hashed(named)["alignment"][0]["model"]["name"] == "l3ae"


@every_closed_form
def test_a_whole_run_releases_it(name, tmp_path):
    chosen = recipe(tmp_path, train={"backbone": {"name": name}, "dim": 4})
    keys = run(chosen)
    assert ("embed" in keys) == ("train_reference" in keys) == (name == "l3ae")
    store = Store(chosen.runtime.store)
    history = pl.read_parquet(store.artifact("train", keys["train"]).path / "history.parquet")
    assert set(history["name"]) == {"val/recall@20", "val/ndcg@20"}
    releases = Releases(chosen.runtime.store)
    current = releases.current()
    assert current is not None
    answer = recommend(Bundle.open(releases.folder(current)), "u000", 3)
    assert answer.height > 0 and set(answer["source"]) == {"model"}
