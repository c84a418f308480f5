"""One suite over every backbone, and over the loop they share."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from darec.common.errors import DarecError, UserError
from darec.common.interactions import Batch, Interactions, Pairs
from darec.model.propagation import Adjacency
from darec.model.text_graph import text_neighbours
from darec.training import DivergedError, checkpoint, train, trainer
from darec.training.history import History, best_epoch
from darec.training.model import Recommender
from darec.training.ranking import RANKING_LOSSES
from darec.training.sampling import Sampler
from schemas.alignment import AlignmentConfig, DaRecConfig, DistillConfig, LinearTeacherConfig, RLMRecGenConfig
from schemas.backbones import AutoCFConfig, BackboneConfig, ClosedFormConfig, GCCFConfig, LightGCNConfig, MFConfig
from schemas.training import LossConfig, SampledSoftmaxConfig, SoftmaxConfig, TextConfig, TrainConfig
from tests.checkerboard import checkerboard, found_first, losses_of, parity_text

BACKBONES = [each() for each in get_args(get_args(BackboneConfig)[0]) if not issubclass(each, ClosedFormConfig)]
OBJECTIVES = [each() for each in get_args(get_args(AlignmentConfig)[0])]
SMALL = {SampledSoftmaxConfig: {"negatives": 8}}
LOSSES = [each(**SMALL.get(each, {})) for each in get_args(get_args(LossConfig)[0])]
QUICK = {"dim": 8, "batch_size": 128, "learning_rate": 0.02, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.name)
def test_a_backbone_learns_the_checkerboard(backbone, data):
    config = TrainConfig(backbone=backbone, alignment=(), epochs=30, patience=30, **QUICK)
    trained = train(config, data)
    trace = losses_of(trained)
    assert trace[-1] < trace[0]
    assert found_first(trained, data) >= 0.9


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.name)
def test_a_backbone_is_deterministic_and_of_the_right_shape(backbone, data):
    config = TrainConfig(backbone=backbone, alignment=(DaRecConfig(sample=16, centres=3),), epochs=2, **QUICK)
    first, second = (train(config, data, parity_text(data)) for _ in range(2))
    assert torch.equal(first.final.nodes, second.final.nodes)
    assert first.history.equals(second.history)
    assert len(first.final.nodes) == data.n_nodes
    assert torch.isfinite(first.final.nodes).all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda config: config.name)
def test_an_objective_trains_with_lightgcn(objective, data):
    config = TrainConfig(alignment=(objective,), epochs=20, patience=20, **QUICK)
    trace = losses_of(train(config, data, parity_text(data)))
    assert trace[-1] < trace[0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda config: config.name)
@pytest.mark.parametrize("scoring", ["inner", "cosine"])
def test_every_ranking_loss_learns(loss, scoring, data):
    config = TrainConfig(loss=loss, scoring=scoring, alignment=(), epochs=60, patience=20, **QUICK)
    trained = train(config, data)
    assert trained.validation["recall@20"] == 1.0
    if scoring == "cosine":
        assert torch.allclose(trained.final.nodes.norm(dim=1), torch.ones(data.n_nodes), atol=1e-5)


def made(config, data):
    """A model, a batch of train pairs and a sampler."""
    torch.manual_seed(3)
    adjacency = Adjacency.normalised(data.train, data.n_users, data.n_items)
    model = Recommender(config, data, adjacency, parity_text(data)).train()
    batch = Batch(data.train.users[:40], data.train.items[:40], (data.train.items[:40] + 1) % data.n_items)
    return model, batch, Sampler(data, 64)


def terms_of(config, data):
    model, batch, sampler = made(config, data)
    return model(batch, sampler)


def test_sampled_softmax_is_that_of_the_drawn_items_the_user_has_not(data):
    loss = SampledSoftmaxConfig(negatives=9, temperature=0.3)
    model, batch, sampler = made(TrainConfig(backbone=MFConfig(), loss=loss, alignment=(), **QUICK), data)
    torch.manual_seed(5)
    value = model(batch, sampler)["ranking"].item()
    torch.manual_seed(5)
    drawn = sampler.shared_negatives(batch.users, 9)[0].tolist()
    final = model.represent()
    user, item = (side.detach().double().numpy() for side in (final.user, final.item))
    owned = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    expected = []
    for u, positive in zip(batch.users.tolist(), batch.items.tolist(), strict=True):
        scores = np.array([user[u] @ item[j] for j in [positive, *(j for j in drawn if (u, j) not in owned)]]) / 0.3
        expected.append(np.log(np.exp(scores).sum()) - scores[0])
    assert value == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("kind", [SampledSoftmaxConfig, SoftmaxConfig])
def test_several_positives_are_the_pairs_item_and_others_of_the_user(data, kind):
    def value(positives, seed=5):
        config = TrainConfig(backbone=MFConfig(), loss=kind(positives=positives), alignment=(), **QUICK)
        model, batch, sampler = made(config, data)
        torch.manual_seed(seed)
        return model(batch, sampler)["ranking"].item(), model, batch, sampler

    _, _, batch, sampler = value(3)
    owned = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    drawn = sampler.positives(batch.users).tolist()
    assert set(zip(batch.users.tolist(), drawn, strict=True)) <= owned and drawn != batch.items.tolist()

    one, model, batch, sampler = value(1)
    final = model.represent()
    torch.manual_seed(5)
    if kind is SampledSoftmaxConfig:
        sampler.shared_negatives(batch.users, 1024)  # drawn before the positives
    others = [Batch(batch.users, sampler.positives(batch.users), batch.negatives) for _ in range(2)]
    each = [one]
    for other in others:
        torch.manual_seed(5)
        each.append(float(RANKING_LOSSES.build(kind(), final, other, sampler)))
    assert value(3)[0] == pytest.approx(np.mean(each), rel=1e-5)


def test_items_add_up_their_neighbours_by_text(data):
    text = parity_text(data)
    config = TrainConfig(backbone=MFConfig(), alignment=(), text=TextConfig(neighbours=3), **QUICK)
    model, *_ = made(config, data)
    nodes, graph = model.embedding.detach(), text_neighbours(text.item, 3).matrix
    final = model.represent()
    assert torch.equal(final.user, nodes[: data.n_users])
    items = nodes[data.n_users :]
    assert torch.allclose(final.item, items + graph @ items, atol=1e-6)
    assert config.needs_text and not config.without_text().needs_text
    with pytest.raises(UserError, match=r"gccf has wider rows.*text\.neighbours"):
        made(config.model_copy(update={"backbone": GCCFConfig()}), data)


def test_objectives_of_one_kind_both_train(data):
    def terms(*weights):
        objectives = tuple(DistillConfig(weight=weight, rows=10 * weight) for weight in weights)
        return terms_of(TrainConfig(backbone=MFConfig(), alignment=objectives, **QUICK), data)

    both = terms(1, 3)
    assert set(both) == {"ranking", "distill"}
    torch.testing.assert_close(both["distill"], terms(1)["distill"] + terms(3)["distill"])


@pytest.mark.parametrize("backbone", [LightGCNConfig(), AutoCFConfig()], ids=lambda config: config.name)
def test_the_ranking_loss_has_its_weight(backbone, data):
    whole, half = (
        terms_of(TrainConfig(backbone=backbone, ranking_weight=weight, alignment=(), **QUICK), data)
        for weight in (1, 0.5)
    )
    assert whole["ranking"].item() > 0
    torch.testing.assert_close(half, whole | {"ranking": whole["ranking"] / 2})


def test_ids_that_start_from_text_rank_before_they_have_learnt(data):
    config = TrainConfig(text=TextConfig(use="start"), alignment=(), epochs=1, **(QUICK | {"learning_rate": 1e-9}))
    assert train(config, data, parity_text(data, width=16)).validation["recall@20"] == 1.0


def test_ids_wider_than_the_text_cannot_start_from_it(data):
    config = TrainConfig(text=TextConfig(use="start"), alignment=(), **(QUICK | {"dim": 64}))
    with pytest.raises(UserError, match="width 12"):
        train(config, data, parity_text(data))


def test_without_ranking_loss_only_the_objectives_train(data):
    config = TrainConfig(
        ranking_weight=0, alignment=(LinearTeacherConfig(text=1, whiten=0, temperature=0.1),), epochs=60, **QUICK
    )
    trained = train(config, data, parity_text(data))
    assert set(trained.history["name"]) >= {"loss/linear-teacher"}
    assert "loss/ranking" not in set(trained.history["name"])
    assert trained.validation["recall@20"] == 1.0


def test_steps_without_a_term_leave_everything_as_it_is():
    """DaRec's sample is one row, as all have touched the same item, and there is no ranking loss."""
    train_pairs = Pairs(torch.arange(5), torch.zeros(5, dtype=torch.int64))
    held_out = Pairs(torch.arange(5), torch.ones(5, dtype=torch.int64))
    alone = Interactions(5, 3, train_pairs, held_out, held_out)
    text = parity_text(alone)
    config = TrainConfig(ranking_weight=0, alignment=(DaRecConfig(centres=2),), cold_start="none", **QUICK)
    once, longer = (train(config.model_copy(update={"epochs": epochs}), alone, text) for epochs in (1, 3))
    assert longer.epochs == 3
    assert torch.equal(once.final.nodes, longer.final.nodes)
    assert not longer.history["name"].str.starts_with("loss/").any()


@pytest.mark.parametrize("use", ["add", "replace"])
def test_text_as_input_reaches_nodes_without_interactions(use, data):
    """With text instead of ids, an item without interactions still goes to the users of its parity."""
    cold = 4
    keep = data.train.items != cold
    train_part = Pairs(data.train.users[keep], data.train.items[keep])
    held = Pairs(data.val.users[data.val.items != cold], data.val.items[data.val.items != cold])
    without = Interactions(data.n_users, data.n_items, train_part, held, data.test)
    config = TrainConfig(alignment=(), text=TextConfig(use=use, width=8), epochs=40, patience=20, **QUICK)
    trained = train(config, without, parity_text(data))
    scores = trained.final.user @ trained.final.item[cold]
    assert scores[0::2].mean() > scores[1::2].mean() + 0.1
    assert ("embedding" in trained.state) == (use == "add")


def test_seeds_matter_and_the_global_generator_is_left_alone(data):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    finals = [train(TrainConfig(alignment=(), epochs=1, seed=seed, **QUICK), data).final.nodes for seed in (0, 1)]
    assert not torch.equal(*finals)
    assert torch.equal(torch.rand(3), expected)


def test_a_dip_in_validation_is_survived_until_min_epochs(data):
    quick = TrainConfig(alignment=(), epochs=60, patience=1, eval_every=1, **{**QUICK, "learning_rate": 1e-9})
    assert train(quick, data).epochs == 2
    retrying = quick.model_copy(update={"min_epochs": 30})
    assert train(retrying, data).epochs == 30


@pytest.mark.parametrize(("patience", "epochs", "best"), [(3, 7, 4), (2, 3, 1)])
def test_a_dip_in_validation_is_survived_by_patience(patience, epochs, best, data, monkeypatch):
    script = iter([0.3, 0.2, 0.25, 0.5, 0.5, 0.4, 0.4, 0.9])

    class Scripted:
        def means(self):
            return {"recall@20": next(script), "ndcg@20": 0.0}

    monkeypatch.setattr(trainer, "score", lambda *_: Scripted())
    trained = train(TrainConfig(alignment=(), epochs=50, patience=patience, eval_every=1, **QUICK), data)
    assert (trained.epochs, trained.best_epoch) == (epochs, best)


def test_the_best_epoch_is_what_is_returned(data):
    config = TrainConfig(alignment=(), epochs=20, patience=20, eval_every=1, **QUICK)
    trained = train(config, data)
    values = trained.history.filter(pl.col("name") == "val/recall@20")
    assert trained.validation["recall@20"] == values["value"].max()
    assert trained.best_epoch == values.sort("value", "epoch", descending=[True, False])["epoch"][0]
    again = train(config.model_copy(update={"epochs": trained.best_epoch}), data)
    assert torch.equal(again.final.nodes, trained.final.nodes)


ONE_STEP = QUICK | {"batch_size": 1 << 20}
"""One step an epoch."""


def rates_of(history):
    return history.filter(pl.col("name") == "learning_rate")["value"].to_list()


def test_the_learning_rate_warms_up(data):
    config = TrainConfig(backbone=MFConfig(), alignment=(), epochs=6, warmup_steps=4, l2=0, **ONE_STEP)
    assert rates_of(train(config, data).history) == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    before, after = (
        train(config.model_copy(update={"epochs": 1, "learning_rate": rate}), data).state["embedding"]
        for rate in (1e-12, 0.02)
    )
    assert (after - before).abs().max().item() == pytest.approx(0.02 / 4, rel=1e-3)  # Adam's first step is the rate


def test_l2_adds_the_gradient_of_the_sum_of_squares(data):
    """Where no term has a gradient Adam's first step is rate g / (|g| + 1e-8), with g = 2 l2 w alone."""
    idle = {"backbone": MFConfig(), "ranking_weight": 0, "alignment": (DistillConfig(weight=1e-30),), "epochs": 1}
    rate, l2 = 0.02, 3e-8  # so that g is of the size of 1e-8 and the step tells it

    def weights(**changes):
        return train(TrainConfig(**(ONE_STEP | idle | changes)), data, parity_text(data)).state["embedding"].double()

    before = weights(l2=0)
    slope = 2 * l2 * before
    expected = before - rate * slope / (slope.abs() + 1e-8)
    torch.testing.assert_close(weights(l2=l2), expected, rtol=1e-4, atol=1e-6)


def test_schedule_and_warm_up(data):
    config = TrainConfig(alignment=(), epochs=4, schedule="cosine", warmup_steps=3, log_steps=1, **QUICK)
    history = train(config, data).history
    rates = rates_of(history)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.02
    steps = history.filter(pl.col("name") == "step/ranking")
    assert steps["step"].to_list() == list(range(1, 4 * len(Sampler(data, 128)) + 1))


def test_clipping_and_bfloat16_run(data):
    config = TrainConfig(clip_norm=0.1, precision="bfloat16", epochs=2, alignment=(DaRecConfig(sample=16),), **QUICK)
    assert torch.isfinite(train(config, data, parity_text(data)).final.nodes).all()


def test_training_to_an_earlier_last_epoch_is_the_first_part_of_a_longer_one(data):
    config = TrainConfig(alignment=(), epochs=12, eval_every=5, patience=9, schedule="cosine", **QUICK)
    whole, part = train(config, data), train(config, data, last_epoch=4)
    assert (part.epochs, part.best_epoch) == (4, 4), "the last epoch is evaluated, whatever eval_every is"
    first = whole.history.filter((pl.col("epoch") <= 4) & ~pl.col("name").str.starts_with("val/"))
    assert part.history.filter(~pl.col("name").str.starts_with("val/")).equals(first)
    assert train(config, data, last_epoch=50).epochs == 12


def test_an_evaluation_at_an_earlier_last_epoch_does_not_count_for_patience(data, tmp_path):
    """The rounds of a search end between evaluations, and a longer training has none there."""
    config = TrainConfig(alignment=(), epochs=40, eval_every=3, patience=3, **{**QUICK, "learning_rate": 1e-9})
    for last_epoch in (4, 8, 40):
        trained = train(config, data, last_epoch=last_epoch, resume=tmp_path / "checkpoint.safetensors")
    assert trained.epochs == train(config, data).epochs == 12


def test_without_anything_held_out_the_last_epoch_is_kept(data):
    everything = Pairs(
        *(torch.cat([getattr(part, side) for part in (data.train, data.val)]) for side in ("users", "items"))
    )
    nothing = Pairs(data.val.users[:0], data.val.items[:0])
    known = Interactions(data.n_users, data.n_items, everything, nothing, nothing)
    trained = train(TrainConfig(alignment=(), epochs=30, patience=1, **QUICK), known, last_epoch=7)
    assert (trained.epochs, trained.best_epoch, trained.validation) == (7, 7, {})


@pytest.mark.parametrize("seed", range(3))
def test_a_history_tells_the_epoch_that_was_kept(seed, data):
    trained = train(TrainConfig(alignment=(), epochs=20, eval_every=1, patience=3, seed=seed, **QUICK), data)
    assert best_epoch(trained.history) == trained.best_epoch


def test_of_equally_good_epochs_the_first_was_kept():
    rows = [(1, "val/recall@20", 0.1), (2, "val/recall@20", 0.3), (3, "val/recall@20", 0.3), (4, "val/ndcg@20", 0.9)]
    history = History()
    for epoch, name, value in rows:
        history.add(epoch, epoch, {name: value})
    assert best_epoch(history.table()) == 2
    assert best_epoch(history.table().filter(pl.col("name") == "val/ndcg@20")) == 4


def test_text_in_place_of_ids_stays_float32_under_autocast(data):
    model, *_ = made(TrainConfig(text=TextConfig(use="replace"), alignment=(), **QUICK), data)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.inputs().dtype == torch.float32  # a GPU's index_copy takes no other beside RLMRec-Gen's token


def test_text_in_place_of_ids_is_masked_in_bfloat16_too(data):
    config = TrainConfig(text=TextConfig(use="replace"), precision="bfloat16", alignment=(RLMRecGenConfig(),), epochs=2)
    assert torch.isfinite(train(config, data, parity_text(data)).final.nodes).all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_compiled_projections_give_the_same_losses(data):
    networks = DaRecConfig(cf_parts="network", text_parts="network", sample=32, centres=3)
    config = TrainConfig(alignment=(networks,), text=TextConfig(use="add"), epochs=1, **QUICK)
    plain, compiled = (
        losses_of(train(config.model_copy(update={"compile": each}), data, parity_text(data))) for each in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_warm_start_takes_rows_over_and_leaves_new_ones(data):
    cold = TrainConfig(alignment=(), epochs=1, **{**QUICK, "learning_rate": 1e-12}, l2=0)
    initial = train(cold, data).state["embedding"]
    warm = torch.full_like(initial, torch.nan)
    warm[3] = 7.0
    begun = train(cold, data, warm=warm).state["embedding"]
    assert torch.allclose(begun[3], torch.full((8,), 7.0))
    assert torch.allclose(begun[4:], initial[4:], atol=1e-6)


@pytest.mark.parametrize("batch_size", [128, 1 << 20], ids=["many steps", "one step an epoch"])
@pytest.mark.parametrize("backbone", [MFConfig(), LightGCNConfig()], ids=lambda config: config.name)
@pytest.mark.parametrize("scoring", ["inner", "cosine"])
def test_a_model_that_diverged_is_an_error_and_never_the_best(backbone, batch_size, scoring, data):
    quick = {**QUICK, "learning_rate": 1e30, "batch_size": batch_size}
    config = TrainConfig(backbone=backbone, scoring=scoring, alignment=(), epochs=9, eval_every=1, **quick)
    seen = []
    with pytest.raises(DivergedError, match=r"diverged at epoch \d+ \(.*; learning_rate 1e\+30\).*clip_norm") as caught:
        train(config, data, listener=lambda epoch, values: seen.append(values))
    assert caught.value.exit_code == 2
    assert all(value <= 1 for values in seen for value in values.values()) and len(seen) < 9


def test_one_parameter_that_is_not_finite_is_found_before_validation(data):
    """NaN in the row of an item without train pairs: no loss sees it, and every user would get it first."""
    train_part = Pairs(data.train.users[data.train.items != 4], data.train.items[data.train.items != 4])
    without = Interactions(data.n_users, data.n_items, train_part, data.val, data.test)
    config = TrainConfig(backbone=MFConfig(), alignment=(), epochs=1, **QUICK)
    training = trainer.Trainer(config, without, None, None, torch.device("cpu"))
    with torch.no_grad():
        training.model.embedding[data.n_users + 4] = torch.nan
    with pytest.raises(DivergedError, match="norm of the parameters = nan"):
        training.fit(None)


def test_text_vectors_that_are_not_finite_are_told(data):
    text = parity_text(data)
    text.nodes[3, 2] = torch.nan
    with pytest.raises(UserError, match="text vectors are not finite"):
        train(TrainConfig(alignment=(DaRecConfig(sample=16),), epochs=1, **QUICK), data, text)


def test_objectives_without_text_are_refused(data):
    with pytest.raises(UserError, match="text vectors"):
        train(TrainConfig(epochs=1, **QUICK), data)


def test_a_user_with_every_item_is_refused():
    every = Pairs.of([0, 0, 1], [0, 1, 0])
    with pytest.raises(UserError, match="no negative"):
        Sampler(Interactions(2, 2, every, every, every), 8)


def test_negatives_are_never_train_items(data):
    torch.manual_seed(0)
    sampler = Sampler(data, 64)
    batches = list(sampler.epoch())
    users, items, negatives = (
        torch.cat([getattr(b, name) for b in batches]) for name in ("users", "items", "negatives")
    )
    assert torch.equal(torch.sort(users * data.n_items + items).values, sampler.keys)
    assert not sampler.seen(users, negatives).any()
    drawn, row, column = sampler.shared_negatives(users, 10)
    expected = sampler.seen(users.repeat_interleave(10), drawn.repeat(len(users))).view(len(users), 10)
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == set(map(tuple, expected.nonzero().tolist()))
    assert torch.equal(row, row.sort().values)


RESUMED = TrainConfig(
    backbone=LightGCNConfig(edge_keep=0.8),
    alignment=(DaRecConfig(sample=16, centres=3, recluster_steps=5, every=3), RLMRecGenConfig()),
    schedule="cosine",
    epochs=30,
    eval_every=2,
    patience=30,
    checkpoint_every=3,
    **QUICK,
)


def test_a_killed_run_goes_on_bit_by_bit(data, tmp_path):
    """A process that trains is killed with SIGKILL in the middle; the next one ends as if nothing had happened."""
    checkpoint = tmp_path / "checkpoint.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(tmp_path)]
    killed = subprocess.run([*command, "kill"], env=environment, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.exists()
    resumed = tmp_path / "resumed"
    subprocess.run([*command, str(resumed)], env=environment, timeout=300, check=True)
    checkpoint.unlink()
    straight = tmp_path / "straight"
    _child(tmp_path, str(straight))
    states = [load_file(path / "state.safetensors") for path in (resumed, straight)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    histories = [pl.read_parquet(path / "history.parquet") for path in (resumed, straight)]
    assert histories[0].equals(histories[1])
    assert histories[0]["epoch"].max() == RESUMED.epochs


def test_no_history_ends_a_training_however_long_it_is(data, tmp_path):
    """Two million rows did not fit into the header of the checkpoint."""
    path, config = tmp_path / "checkpoint.safetensors", RESUMED.model_copy(update={"epochs": 3})

    def begun():
        return trainer.Trainer(config, data, parity_text(data), None, torch.device("cpu"))

    long = begun()
    long.history.extend(1, ((step, f"step/{'ab'[step % 2]}", step / 7) for step in range(2_000_000)))
    history = long.fit(path).history
    resumed = begun().fit(path)
    assert len(history) > 2_000_000 and resumed.history.equals(history)
    assert resumed.history["name"][1] == "step/b" and resumed.history["value"][3] == 3 / 7


def test_a_checkpoint_of_version_0_1_is_gone_on_from(data, tmp_path):
    """Its history is a list of rows."""
    path, config = tmp_path / "checkpoint.safetensors", RESUMED.model_copy(update={"epochs": 6})
    straight = train(config, data, parity_text(data))
    epochs = []

    def stop(epoch: int, _: dict[str, float]) -> None:
        epochs.append(epoch)
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, data, parity_text(data), resume=path, listener=stop)
    state = checkpoint.load(path)
    rows = straight.history.filter(pl.col("epoch") <= state["epoch"]).rows()
    checkpoint.save(state | {"history": [list(row) for row in rows]}, path)
    resumed = train(config, data, parity_text(data), resume=path, listener=lambda epoch, _: epochs.append(epoch))
    assert epochs == [2, 4, 4, 6]
    assert resumed.history.equals(straight.history)
    assert torch.equal(resumed.final.nodes, straight.final.nodes)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_disk_at_a_checkpoint_is_told(data, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with pytest.raises(DarecError, match="checkpoint cannot be written.*run again"):
            train(RESUMED, data, parity_text(data), resume=tmp_path / "checkpoint.safetensors")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_damaged_checkpoint_is_an_error(data, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DarecError, match="checkpoint"):
        train(TrainConfig(backbone=MFConfig(), alignment=(), epochs=1, **QUICK), data, resume=path)


def _child(folder: Path, action: str) -> None:
    """Trains with a checkpoint in `folder`; `kill` dies by SIGKILL at epoch 20, else writes the result to `action`."""

    def die(epoch: int, _: dict[str, float]) -> None:
        if action == "kill" and epoch == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    interactions = checkerboard(folder / "data")
    checkpoint = folder / "checkpoint.safetensors"
    trained = train(RESUMED, interactions, parity_text(interactions), resume=checkpoint, listener=die)
    out = Path(action)
    out.mkdir()
    save_file(trained.state, out / "state.safetensors")
    trained.history.write_parquet(out / "history.parquet")


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2])
