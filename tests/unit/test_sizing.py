"""Settings that follow from the size of the data: steps an epoch, learning rate, users that validation ranks."""

import logging
from types import SimpleNamespace

import pytest
import torch

from darec.common.interactions import Interactions, Pairs
from darec.training import sampling
from darec.training.run import train
from darec.training.sizing import validation_pairs
from darec.training.trainer import Trainer, validate
from schemas import steps
from schemas.recipe import Recipe
from schemas.section import hashed
from schemas.steps import StepSettings, step_settings
from schemas.training import TrainConfig
from stages.declarations import CHOOSE, REFIT, TRAIN, TRAIN_REFERENCE


def config(**fields) -> TrainConfig:
    return TrainConfig.model_validate({"alignment": (), "dim": 8, "epochs": 2, "eval_every": 1} | fields)


def data(users: int = 60, items: int = 40, rows: int = 900) -> Interactions:
    torch.manual_seed(0)
    parts = [Pairs(torch.randint(users, (n,)), torch.randint(items, (n,))) for n in (rows, 150, 0)]
    return Interactions(users, items, *parts)


@pytest.mark.parametrize("pairs", [1000, 1_000_000])
def test_small_data_keep_their_settings_and_keys(pairs):
    assert step_settings(config(), pairs) == StepSettings(4096, 1e-3, 1e-6)
    assert "batch_growth" not in hashed(config())
    assert "validation_users" not in hashed(config())


@pytest.mark.parametrize(("pairs", "size"), [(1_100_000, 8192), (5_000_000, 32_768), (20_000_000, 131_072)])
def test_large_data_take_a_bounded_number_of_steps(pairs, size):
    found = step_settings(config(), pairs)
    assert found.batch_size == size
    assert 128 <= pairs / size <= 256
    assert found.learning_rate == pytest.approx(1e-3 * (size / 4096) ** 0.5)
    assert found.l2 * pairs == pytest.approx(1e-6 * 1_000_000), "a row's penalty shrinks as its part of the loss does"
    assert step_settings(config(batch_growth="none"), pairs) == StepSettings(4096, 1e-3, 1e-6)
    assert step_settings(config(batch_size=2**20), pairs).learning_rate == 1e-3


@pytest.mark.parametrize("stage", [TRAIN_REFERENCE, CHOOSE, TRAIN, REFIT], ids=lambda stage: stage.name)
def test_keys_of_large_data_contain_the_settings_of_a_step(stage):
    def part(pairs, **train):
        source = SimpleNamespace(manifest=SimpleNamespace(rows=pairs))
        return stage.by_size(Recipe.model_validate({"train": train}), {"graph": source, "split": source})

    assert part(1_000_000) == {}
    assert part(5_000_000)["step"]["batch_size"] == 32_768
    assert part(5_000_000) != part(2_000_000)
    assert part(5_000_000, batch_growth="none") == {}
    assert part(5_000_000, backbone={"name": "ease"}, alignment=[]) == {}


def test_work_of_an_epoch_is_linear_in_the_data():
    """Edges that all steps of an epoch pass over: with batches of one size these are the square of the edges."""
    passed = {
        pairs: pairs * -(-pairs // step_settings(config(), pairs).batch_size) for pairs in (2_000_000, 50_000_000)
    }
    assert passed[50_000_000] / passed[2_000_000] < 2 * 25


def test_training_says_and_uses_the_larger_batch(monkeypatch, caplog):
    monkeypatch.setattr(steps, "_MANY_PAIRS", 500)
    monkeypatch.setattr(steps, "_STEPS", 4)
    with caplog.at_level(logging.INFO):
        trained = train(config(batch_size=32, warmup_steps=0), data())
    assert trained.batch_size == 256
    assert "batches of 256" in caplog.text
    assert f"l2 of {1e-6 * 500 / 900:.2g}" in caplog.text
    rate = trained.history.filter(name="learning_rate")
    assert rate["value"].to_list() == pytest.approx([1e-3 * 8**0.5] * 2)
    assert rate["step"].to_list() == [4, 8]


def test_validation_of_a_sample_says_its_error():
    chosen, interactions = config(validation_users=10), data()
    pairs, is_sample = validation_pairs(chosen, interactions)
    users = set(pairs.users.tolist())
    assert is_sample
    assert len(users) == 10
    assert len(pairs) == sum(user in users for user in interactions.val.users.tolist())
    for trained in (train(chosen, interactions), train(config(backbone={"name": "ease"}, validation_users=10), data())):
        assert trained.validation["recall@20 standard error"] > 0
    assert "val/recall@20 standard error" in set(trained.history["name"])
    trainer = Trainer(chosen, interactions, None, None, torch.device("cpu"))
    final = trainer.model.represent()
    assert validate(final, interactions, pairs)["recall@20"] != validate(final, interactions)["recall@20"]


def test_blocks_of_looked_up_pairs_draw_the_same_negatives(monkeypatch):
    drawn = []
    for block in (sampling._LOOKED_UP, 7):
        monkeypatch.setattr(sampling, "_LOOKED_UP", block)
        sampler = sampling.Sampler(data(), 256)
        torch.manual_seed(1)
        drawn.append(torch.cat([batch.negatives for batch in sampler.epoch()]))
        assert not sampler.seen(data().train.users[:50], data().train.items[:50]).logical_not().any()
    assert torch.equal(*drawn)


def test_all_users_are_validated_as_long_as_they_are_few():
    pairs, is_sample = validation_pairs(config(), data())
    assert not is_sample
    assert len(pairs) == 150
    assert "recall@20 standard error" not in train(config(), data()).validation
