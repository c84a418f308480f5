"""What every backbone must do, whatever it is: one suite over all of them."""

from pathlib import Path
from typing import get_args

import polars as pl
import pytest
import torch
from torch import Tensor

from darec.common.interactions import Batch, Interactions, Pairs, Representations
from darec.evaluation.protocol import rank, score
from darec.model import backbones
from darec.model.base import Backbone
from darec.model.closed_form import CLOSED_FORMS
from darec.model.propagation import Adjacency
from darec.training import train
from schemas.backbones import (
    AutoCFConfig,
    BackboneConfig,
    DCCFConfig,
    LightGCNConfig,
    NGCFConfig,
    SGLConfig,
    SimGCLConfig,
)
from schemas.training import TrainConfig
from tests.data import write_checkerboard

DIM, USERS, ITEMS = 8, 40, 24
CLOSED = set(CLOSED_FORMS)
SMALL = {DCCFConfig: {"intents": 5}, AutoCFConfig: {"seeds": 2, "heads": 2, "mask_steps": 2, "mask_depth": 1}}
"""Settings of backbones whose defaults are for larger data than that of these tests."""
CONFIGS: list[BackboneConfig] = [
    *(each(**SMALL.get(each, {})) for each in get_args(get_args(BackboneConfig)[0]) if each not in CLOSED),
    LightGCNConfig(edge_keep=0.8),
    LightGCNConfig(combine="mean", layers=2),
    NGCFConfig(layers=2),
    SGLConfig(negatives="batch", contrast_negatives=False, combine="mean"),
    SimGCLConfig(noise=0.2),
    SimGCLConfig(negatives="batch", noise=0.05, combine="mean", weight=0.01),
]


def named(config: BackboneConfig) -> str:
    return "-".join(map(str, [config.name, *config.model_dump(exclude_defaults=True).values()]))


every_backbone = pytest.mark.parametrize("config", CONFIGS, ids=named)


@pytest.fixture(scope="session")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    folder = tmp_path_factory.mktemp("checkerboard")
    write_checkerboard(folder, USERS, ITEMS)
    rows = pl.read_csv(folder / "interactions.csv").with_columns(
        pl.col("user_id").str.slice(1).cast(pl.Int64), pl.col("item_id").str.slice(1).cast(pl.Int64)
    )

    def part(name: str) -> Pairs:
        found = rows.filter(pl.col("split") == name)
        return Pairs(found["user_id"].to_torch(), found["item_id"].to_torch())

    return Interactions(USERS, ITEMS, part("train"), part("val"), part("test"))


def made(config: BackboneConfig, data: Interactions, seed: int = 0) -> tuple[Backbone, Tensor, Batch]:
    """A backbone, input rows that take gradients, and a batch of train pairs."""
    torch.manual_seed(seed)
    adjacency = Adjacency.normalised(data.train, data.n_users, data.n_items)
    backbone = backbones.build(config, adjacency, data.n_users, DIM)
    nodes = (torch.randn(data.n_nodes, DIM) / 3).requires_grad_()
    some = torch.randperm(len(data.train))[:64]
    batch = Batch(data.train.users[some], data.train.items[some], torch.randint(data.n_items, (64,)))
    return backbone, nodes, batch


def settings(config: BackboneConfig, **changes: object) -> TrainConfig:
    base = {"dim": DIM, "batch_size": 64, "learning_rate": 0.02, "epochs": 4, "eval_every": 1, "checkpoint_every": 1}
    return TrainConfig.model_validate({"backbone": config, "alignment": (), **base, **changes})


@every_backbone
def test_output_is_one_finite_row_a_node(config, checkerboard):
    backbone, nodes, _ = made(config, checkerboard)
    for training in (True, False):
        backbone.train(training)
        final = backbone(nodes)
        assert final.shape == (checkerboard.n_nodes, backbone.out_dim)
        assert torch.isfinite(final).all()


@every_backbone
def test_every_row_and_parameter_gets_a_gradient(config, checkerboard):
    backbone, nodes, batch = made(config, checkerboard)
    backbone.train()
    backbone.start_epoch(0)
    rows = backbone(nodes)
    terms = backbone.losses(nodes, Representations(rows, USERS), batch)
    total = sum(terms.values()) + rows.square().sum()
    assert all(term.shape == () for term in terms.values())
    total.backward()
    for gradient in (nodes.grad, *(parameter.grad for parameter in backbone.parameters())):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any(-1).all()


@every_backbone
def test_evaluation_is_a_pure_function_of_the_input(config, checkerboard):
    backbone, nodes, batch = made(config, checkerboard)
    backbone.eval()
    first, random = backbone(nodes), torch.get_rng_state()
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()
    backbone.losses(nodes, Representations(backbone(nodes), USERS), batch)
    torch.set_rng_state(random)
    backbone.eval()
    assert torch.equal(backbone(nodes), first)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@every_backbone
def test_it_learns_the_checkerboard(config, checkerboard):
    trained = train(settings(config, epochs=10, eval_every=10), checkerboard)
    loss = trained.history.filter(pl.col("name") == "loss/ranking")["value"]
    assert loss[-1] < 0.97 * loss[0]
    final = rank(trained.final, checkerboard.train, checkerboard.test, 1)
    assert score(final, checkerboard.test, ITEMS, (1,), ("recall",)).means()["recall@1"] > 0.9


@every_backbone
def test_equal_seeds_give_equal_bits_and_others_do_not(config, checkerboard):
    first, second, third = (train(settings(config, epochs=2, seed=seed), checkerboard) for seed in (1, 1, 2))
    assert torch.equal(first.final.nodes, second.final.nodes)
    assert first.history.equals(second.history)
    assert not torch.equal(first.final.nodes, third.final.nodes)


def dense(data: Interactions) -> Tensor:
    """D^-1/2 A D^-1/2, [N, N]."""
    matrix = torch.zeros(data.n_nodes, data.n_nodes)
    matrix[data.train.users, data.train.items + data.n_users] = 1.0
    matrix = matrix + matrix.T
    return matrix / (matrix.sum(1)[:, None] * matrix.sum(1)[None, :]).sqrt()


def test_lightgcn_gives_the_sum_or_the_mean_of_layers(checkerboard):
    matrix = dense(checkerboard)
    for combine, scale in (("sum", 1), ("mean", 1 / 3)):
        backbone, nodes, _ = made(LightGCNConfig(layers=2, combine=combine), checkerboard)
        expected = scale * (nodes + matrix @ nodes + matrix @ matrix @ nodes)
        torch.testing.assert_close(backbone(nodes), expected)


def test_lightgcn_leaves_out_the_input_layer(checkerboard):
    matrix = dense(checkerboard)
    for combine, scale in (("sum", 1), ("mean", 1 / 2)):
        config = LightGCNConfig(layers=2, combine=combine, input_layer=False)
        backbone, nodes, _ = made(config, checkerboard)
        torch.testing.assert_close(backbone(nodes), scale * (matrix @ nodes + matrix @ matrix @ nodes))
    with pytest.raises(ValueError, match="leaves no layer"):
        LightGCNConfig(layers=0, input_layer=False)


def test_lightgcn_keeps_its_share_of_edges_in_training_only(checkerboard):
    backbone, _, _ = made(LightGCNConfig(layers=1, edge_keep=0.8), checkerboard)
    everything, one_hot = dense(checkerboard), torch.eye(checkerboard.n_nodes)
    torch.testing.assert_close(backbone.eval()(one_hot), one_hot + everything)
    left = backbone.train()(one_hot) - one_hot
    assert torch.equal(left, left.T), "an edge goes in both directions or stays"
    kept = left > 0
    torch.testing.assert_close(left[kept], everything[kept])
    assert (everything[kept] > 0).all()
    assert kept.sum().item() / (everything > 0).sum().item() == pytest.approx(0.8, abs=0.06)  # 4 deviations of 840


class Killed(Exception):  # noqa: N818
    pass


@every_backbone
def test_a_killed_run_goes_on_as_if_nothing_had_happened(config, checkerboard, tmp_path: Path):
    def kill(epoch: int, values: dict[str, float]) -> None:
        if epoch == 3:
            raise Killed

    whole = train(settings(config), checkerboard)
    with pytest.raises(Killed):
        train(settings(config), checkerboard, resume=tmp_path / "run", listener=kill)
    resumed = train(settings(config), checkerboard, resume=tmp_path / "run")
    assert torch.equal(whole.final.nodes, resumed.final.nodes)
    assert whole.history.equals(resumed.history)


@every_backbone
def test_half_precision_and_cosine_scores_train(config, checkerboard):
    trained = train(settings(config, epochs=2, precision="bfloat16", scoring="cosine"), checkerboard)
    torch.testing.assert_close(trained.final.nodes.norm(dim=1), torch.ones(checkerboard.n_nodes))
