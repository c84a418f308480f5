"""Vectors from text for rows without train interactions."""

import numpy as np
import torch

from benchmarks import cold
from benchmarks.data import from_folder
from darec.common.interactions import Interactions, Pairs, Representations
from darec.model.cold_start import fill, ridge
from darec.training import train
from schemas.training import TrainConfig
from tests.bench_samples import write_board
from tests.checkerboard import checkerboard, parity_text


def test_ridge_finds_a_linear_map():
    torch.manual_seed(0)
    inputs, weights = torch.randn(200, 6), torch.randn(6, 3)
    found, bias = ridge(inputs, inputs @ weights + 2)
    assert torch.allclose(found, weights, atol=1e-4)
    assert torch.allclose(bias, torch.full((3,), 2.0), atol=1e-4)


def test_ridge_takes_the_penalty_that_leave_one_out_prefers():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 20)), generator.normal(size=(30, 2)) + 1
    x[:, :3] += y.repeat([1, 2], axis=1)
    weights, bias = ridge(torch.tensor(x), torch.tensor(y))

    def solve(rows, penalty):
        centred, target = x[rows] - x[rows].mean(0), y[rows] - y[rows].mean(0)
        found = np.linalg.solve(centred.T @ centred + penalty * np.eye(20), centred.T @ target)
        return found, y[rows].mean(0) - x[rows].mean(0) @ found

    def left_out(penalty):
        rows = np.arange(30)
        pairs = [(i, solve(rows != i, penalty * 30)) for i in rows]
        return np.mean([((x[i] @ w + b - y[i]) ** 2).sum() for i, (w, b) in pairs])

    penalties = np.logspace(-6, 3, 19)
    best = penalties[np.argmin([left_out(penalty) for penalty in penalties])]
    expected, offset = solve(np.arange(30) >= 0, best * 30)
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), offset, atol=1e-6)


def without_items(data: Interactions, cold: torch.Tensor) -> Interactions:
    kept = ~torch.isin(data.train.items, cold)
    return Interactions(
        data.n_users, data.n_items, Pairs(data.train.users[kept], data.train.items[kept]), data.val, data.test
    )


def test_only_cold_rows_change_and_unit_rows_stay_unit():
    data = without_items(Interactions(4, 4, *[Pairs.of(np.arange(4), np.arange(4))] * 3), torch.tensor([3]))
    final = Representations(torch.nn.functional.normalize(torch.randn(8, 5), dim=-1), 4)
    filled = fill(final, Representations(torch.randn(8, 3), 4), data, unit=True)
    cold = [3, 7]  # user 3 lost its only item
    assert not torch.equal(filled.nodes[cold], final.nodes[cold])
    warm = [0, 1, 2, 4, 5, 6]
    assert torch.equal(filled.nodes[warm], final.nodes[warm])
    assert torch.allclose(filled.nodes.norm(dim=1), torch.ones(8), atol=1e-6)


def test_cold_items_of_the_checkerboard_go_to_the_right_users(tmp_path):
    data, cold = checkerboard(tmp_path), torch.tensor([0, 1, 2, 3])
    data = without_items(data, cold)
    config = TrainConfig(dim=8, epochs=8, eval_every=8, batch_size=128, learning_rate=0.05, device="cpu")
    text = parity_text(data)
    final = train(config, data, text).final
    scores = final.user @ final.item[cold].T
    same = (torch.arange(data.n_users)[:, None] - cold) % 2 == 0
    assert (scores[same].min() > scores[~same].max()).item()
    untouched = train(config.model_copy(update={"cold_start": "none"}), data, text).final
    assert torch.equal(final.item[4:], untouched.item[4:])


def test_the_bench_hides_items_and_finds_them_again_by_text(tmp_path):
    data = from_folder("board", write_board(tmp_path))
    held = cold.hold_out(data, 0.3, seed=1)
    inter = held.interactions
    hidden = torch.ones(60, dtype=torch.bool)
    hidden[inter.train.items] = False
    assert 5 < hidden.sum() < 35
    assert hidden[inter.test.items].all()
    assert not hidden[inter.val.items].any()
    assert held.content != data.content
    assert held.content != cold.hold_out(data, 0.3, seed=2).content
    perfect = torch.zeros(100, 2)
    perfect[torch.arange(100), torch.arange(100) % 2] = 1
    everything = cold.among_cold(Representations(perfect, 40), held)
    opposite = cold.among_cold(Representations(torch.cat([perfect[:40], -perfect[40:]]), 40), held)
    assert everything[0] == 1.0 or everything[0] > opposite[0]
