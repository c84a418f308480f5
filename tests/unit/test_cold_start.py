"""Vectors from text for rows without train interactions."""

import json
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from benchmarks import cold, cold_growth
from benchmarks.data import from_folder
from darec.artifacts.store import Store
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import rank, score
from darec.model import cold_start
from darec.model.cold_start import (
    calibrate,
    deviation,
    fill,
    fill_from_history,
    fill_from_neighbours,
    history_columns,
    of_neighbours,
    ridge,
    whitened,
)
from darec.training import train
from pipelines.cli import app
from schemas.training import TrainConfig
from tests.bench_samples import write_board
from tests.checkerboard import checkerboard, parity_text

grown = partial(fill_from_history, growth=0.3)


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


def test_a_cold_item_points_where_the_items_of_its_text_point_and_is_shorter_the_less_they_agree():
    text = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0, 1.1], [1, 0.05], [0, 1.05], [0.6, 0.65]])
    final = torch.tensor([[2.0, 0], [4, 0], [0, 3], [0, 3], [9, 9], [9, 9], [9, 9]])
    known = torch.tensor([True] * 4 + [False] * 3)
    found = of_neighbours(text, final, known, ~known)
    expected = torch.tensor([[3.0, 0], [0, 3]])  # known rows are 3 long on average
    torch.testing.assert_close(found[:2], expected, rtol=1e-3, atol=1e-3)
    assert found[2].norm() < 0.9 * 3, "between the two kinds: they do not agree"
    torch.testing.assert_close(of_neighbours(text, 5 * final, known, ~known), 5 * found)


def test_a_cold_item_whose_text_is_near_to_none_gets_the_mean_of_all():
    """The tenth power of a tiny cosine is 0 in float32, and so would be the sum of the weights."""
    text, final = torch.tensor([[1.0, 0], [-1, 0], [0, 0]]), torch.tensor([[3.0, 0], [0, 3], [9, 9]])
    known = torch.tensor([True, True, False])
    torch.testing.assert_close(of_neighbours(text, final, known, ~known), torch.tensor([[1.5, 1.5]]))


@pytest.mark.parametrize("scores", [1, 3, 40])
def test_blocks_of_many_known_rows_give_the_same(scores, monkeypatch):
    torch.manual_seed(0)
    text, final, known = torch.randn(12, 4), torch.randn(12, 3), torch.arange(12) < 8
    expected = of_neighbours(text, final, known, ~known, hubness=0.5)
    monkeypatch.setattr(cold_start, "_MOST_SCORES", scores)
    torch.testing.assert_close(of_neighbours(text, final, known, ~known, hubness=0.5), expected)


def plain_recall(final, users, rows, data, counted, k=20, forgotten=()):
    """Mean recall of `counted` items over users, by sorting; items without a row are in no list.

    `forgotten`: items that are in lists although they are in train."""
    values = []
    train, val = (set(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in (data.train, data.val))
    for user in users:
        relevant = {item for who, item in val if who == user and counted[item]}
        if not relevant:
            continue
        scores = {
            item: float(final.user[user] @ row)
            for item, row in rows.items()
            if (user, item) not in train or item in forgotten
        }
        first = sorted(scores, key=lambda item: -scores[item])[:k]
        values.append(len(relevant & set(first)) / len(relevant))
    return float(np.mean(values))


def some_data(seed=0):
    """Sixty users and ninety items of a few kinds; the last ten items have no train interaction."""
    generator = np.random.default_rng(seed)
    users, items = generator.standard_normal((60, 4)), generator.standard_normal((90, 4))
    liked = np.argsort(-(users @ items.T + generator.gumbel(size=(60, 90))), axis=1)[:, :16]
    pairs = np.stack([np.repeat(np.arange(60), 16), liked.ravel()], 1)
    val = np.tile([False] * 12 + [True] * 4, 60) | (pairs[:, 1] >= 80)
    parts = [Pairs.of(*pairs[keep].T) for keep in (~val, val & (pairs[:, 1] < 80), val)]
    final = Representations(torch.tensor(np.concatenate([users, items]), dtype=torch.float32), 60)
    noise = 0.5 * generator.standard_normal((150, 4))
    text = Representations(final.nodes + torch.tensor(noise, dtype=torch.float32), 60)
    return Interactions(60, 90, *parts), final, text


@cache
def plain_losses(seed: int) -> dict[float, float]:
    """The share of the warm items' recall that each scale costs, by loops."""
    data, final, text = some_data(seed)
    warm = torch.bincount(data.train.items, minlength=90) > 0
    as_cold = warm & (torch.rand(90, generator=torch.Generator().manual_seed(cold_start._SEED)) < 0.1)
    others = warm & ~as_cold
    assert as_cold.any()
    known = {item: final.item[item] for item in others.nonzero().squeeze(1).tolist()}
    predicted = dict(
        zip(as_cold.nonzero().squeeze(1).tolist(), of_neighbours(text.item, final.item, others, as_cold), strict=True)
    )

    base = plain_recall(final, range(60), known, data, others)
    losses = {}
    for scale in cold_start._SCALES.tolist():
        rows = known | {item: scale * row for item, row in predicted.items()}
        losses[scale] = 1 - plain_recall(final, range(60), rows, data, others) / base
    return losses


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("allowed", [0.0, 0.02, 0.1, 0.5])
def test_the_scale_is_the_largest_that_costs_warm_items_no_more_than_allowed(seed, allowed):
    data, final, text = some_data(seed)
    kept = [scale for scale, loss in plain_losses(seed).items() if loss <= allowed + 1e-6]
    expected = max(kept, default=cold_start._SCALES[0].item())
    assert calibrate(final, text, data, allowed) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # users without such items
def test_the_scale_of_all_tenths_keeps_their_mean_loss_and_its_error_below_the_limit():
    data, final, text = some_data()
    allowed = 0.02
    found = calibrate(final, text, data, allowed, folds=10)
    warm = torch.bincount(data.train.items, minlength=90) > 0
    tenth = (10 * torch.rand(90, generator=torch.Generator().manual_seed(cold_start._SEED))).floor()

    def loss(scale: float) -> float:
        """The mean over tenths, with the standard error over users of their means."""
        lost, recall = [], []
        for number in range(10):
            as_cold = warm & (tenth == number)
            others = warm & ~as_cold
            known = {item: final.item[item] for item in others.nonzero().squeeze(1).tolist()}
            rows = scale * of_neighbours(text.item, final.item, others, as_cold)
            new = dict(zip(as_cold.nonzero().squeeze(1).tolist(), rows, strict=True))
            before, after = (
                [plain_recall(final, [user], rows, data, others, forgotten=new) for user in range(60)]
                for rows in (known, known | new)
            )
            lost.append(np.array(before) - np.array(after))
            recall.append(before)
        of_users = np.nanmean(lost, axis=0)
        error = np.nanstd(of_users) / np.isfinite(of_users).sum() ** 0.5
        return float((np.nanmean(lost) + error) / np.nanmean(recall))

    scales = cold_start._FINE_SCALES
    assert loss(found) <= allowed < loss(scales[scales > found][0].item())


def test_a_neighbour_of_many_items_counts_less():
    text = torch.tensor([[3.0, 0], [3, 0.3], [3, -0.3], [-2, 3], [-2, -3.1], [2, 3]])
    final = torch.eye(6)
    known = torch.arange(6) < 5
    plain, less = (of_neighbours(text, final, known, ~known, hubness=share)[0] for share in (0.0, 0.5))
    assert (less[:3] / plain[:3]).max() < less[3] / plain[3], "the first three are near each other"


def test_whitened_texts_have_variances_that_differ_less():
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    text = torch.randn(500, 3) * torch.tensor([10.0, 1.0, 0.1]) @ turn + 5
    known = torch.arange(500) < 400
    before, after = (torch.cov(each[known].T, correction=0) for each in (text, whitened(text, known)))
    torch.testing.assert_close(after.diagonal().sort().values, torch.linalg.eigvalsh(before).sqrt(), rtol=1e-3, atol=0)
    torch.testing.assert_close(after, after.diagonal().diag(), rtol=0, atol=1e-3)
    torch.testing.assert_close(whitened(text + 1, known), whitened(text, known), rtol=1e-2, atol=1e-2)


def test_scaled_neighbours_reach_the_first_places_that_ridge_leaves_to_others():
    data, final, text = some_data()
    ridge_rows = fill(final, text, data, unit=False)
    neighbours = fill_from_neighbours(final, text, data, unit=False, allowed_loss=0.5)
    assert torch.equal(neighbours.user, ridge_rows.user)
    assert torch.equal(neighbours.item[:80], final.item[:80])
    new = (torch.bincount(data.train.items, minlength=90) == 0).nonzero().squeeze(1)
    held_out = Pairs(*(side[torch.isin(data.test.items, new)] for side in (data.test.users, data.test.items)))

    def among_all(rows: Representations) -> float:
        return score(rank(rows, data.train, held_out, 20), held_out, 90, (20,), ("recall",)).means()["recall@20"]

    assert among_all(neighbours) > among_all(ridge_rows)


def text_scores(text: torch.Tensor, data: Interactions) -> torch.Tensor:
    """EASE of the texts from the definition, by inverting items x items: [n_users, n_items]."""
    unit = functional.normalize(text.double(), dim=-1)
    inverse = torch.linalg.inv(unit @ unit.T + cold_start._TEXT_L2 * torch.eye(len(unit), dtype=torch.float64))
    weights = -inverse / inverse.diagonal()
    history = torch.zeros(data.n_users, data.n_items, dtype=torch.float64)
    history[data.train.users, data.train.items] = 1
    return history @ weights.fill_diagonal_(0) / history.sum(1, keepdim=True).sqrt()


def test_the_columns_of_histories_give_the_scores_of_ease_on_texts(monkeypatch):
    data, _, text = some_data()
    new = torch.bincount(data.train.items, minlength=90) == 0
    wanted = text_scores(text.item, data)[:, new]
    users, items = history_columns(text.item, data)
    torch.testing.assert_close((users @ items[new].T).double(), wanted, rtol=1e-4, atol=1e-5)
    assert deviation(users, items[new]) == pytest.approx(wanted.std(correction=0).item(), rel=1e-3)

    monkeypatch.setattr(cold_start, "_TEXT_COLUMNS", 3)
    users, items = history_columns(text.item, data)
    assert users.shape[1] == items.shape[1] == 3
    assert torch.corrcoef(torch.stack([(users @ items[new].T).flatten(), wanted.float().flatten()]))[0, 1] > 0.9


def test_histories_change_the_scores_of_new_items_alone():
    data, final, text = some_data()
    new = torch.bincount(data.train.items, minlength=90) == 0
    rows, neighbours = (way(final, text, data, unit=False, allowed_loss=0.1) for way in (grown, fill_from_neighbours))
    assert rows.dim == 2 * final.dim + text.dim
    scores, before = rows.user @ rows.item.T, final.user @ final.item.T
    torch.testing.assert_close(scores[:, ~new], before[:, ~new])
    added = scores[:, new] / (neighbours.user @ neighbours.item[new].T)
    assert added.std() > 0.01, "not the same scores at another scale"

    unit = Representations(functional.normalize(final.nodes, dim=-1), final.n_users)
    rows, neighbours = (way(unit, text, data, unit=True, allowed_loss=0.1) for way in (grown, fill_from_neighbours))
    assert torch.equal(rows.nodes, neighbours.nodes)


def test_without_validation_the_scale_is_one_and_unit_rows_stay_unit():
    data, final, text = some_data()
    nothing = Pairs(data.val.users[:0], data.val.items[:0])
    blind = Interactions(data.n_users, data.n_items, data.train, nothing, nothing)
    assert calibrate(final, text, blind, 0.02) == 1.0
    unit = Representations(functional.normalize(final.nodes, dim=-1), final.n_users)
    rows = fill_from_neighbours(unit, text, data, unit=True, allowed_loss=0.02).nodes
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(150))


def test_neighbours_are_a_setting_of_training(tmp_path):
    data, new = checkerboard(tmp_path), torch.tensor([0, 1, 2, 3])
    data = without_items(data, new)
    config = TrainConfig(dim=8, epochs=8, eval_every=8, batch_size=128, learning_rate=0.05, device="cpu")
    text = parity_text(data)
    ridge_rows, neighbours, history = (
        train(config.model_copy(update={"cold_start": kind}), data, text).final
        for kind in ("ridge", "neighbours", "history")
    )
    assert torch.equal(ridge_rows.item[4:], neighbours.item[4:])
    assert torch.equal(history.item[4:, :8], neighbours.item[4:])
    assert not torch.equal(ridge_rows.item[new], neighbours.item[new])
    same = (torch.arange(data.n_users)[:, None] - new) % 2 == 0
    for rows in (neighbours, history):
        scores = rows.user @ rows.item[new].T
        assert (scores[same].min() > scores[~same].max()).item()


def test_the_bench_says_what_cold_items_cost_the_others(tmp_path):
    full = from_folder("board", write_board(tmp_path))
    held = cold.hold_out(full, 0.3, seed=1)
    hidden = torch.bincount(held.interactions.train.items, minlength=60) == 0
    rows = torch.ones(100, 2)
    for first, cost in ((-9.0, False), (9.0, True)):  # cold items last in every list, or first
        item = rows[40:].clone()
        item[hidden] *= first
        among, alone = cold.warm_recall(Representations(torch.cat([rows[:40], item]), 40), held, full)
        assert (among < alone) == cost


def test_the_bench_says_what_places_for_cold_items_bring_and_cost(tmp_path):
    full = from_folder("board", write_board(tmp_path))
    held = cold.hold_out(full, 0.3, seed=1)
    hidden = torch.bincount(held.interactions.train.items, minlength=60) == 0
    nodes = torch.zeros(100, 41)
    nodes[torch.arange(40), torch.arange(40)] = nodes[:40, 40] = 1
    nodes[40 + held.interactions.test.items, held.interactions.test.users] = 1  # what is held out is found,
    nodes[40:][hidden, 40] = -9  # behind all warm items
    lines = list(cold._places(Representations(nodes, 40), held, full))
    places, of_cold, of_warm = zip(*((int(a), float(b), float(c)) for a, b, c, _ in lines), strict=True)
    assert places == (0, 1, 2)
    assert of_cold[0] == 0 and of_cold[1] > 0.5 and of_cold[1] <= of_cold[2]
    assert of_warm[0] >= of_warm[1] >= of_warm[2]


def test_data_for_the_growth_are_the_known_items_split_once_more(tmp_path):
    held = cold.hold_out(from_folder("board", write_board(tmp_path)), 0.2, seed=1)
    inner = cold_growth.nested(held, 0.3, seed=1)
    known = held.interactions.train.items.unique()
    full, small, outer = inner.full.interactions, inner.held.interactions, held.interactions
    parts = (full.train, full.val, full.test)
    train, val, test = (set(zip(part.users.tolist(), known[part.items].tolist(), strict=True)) for part in parts)
    old, late = (set(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in (outer.train, outer.val))
    assert sum(map(len, (train, val, test))) == len(old | late)
    assert train | val | test == old | late, "what is held out was known, and is no test of the data"
    for user in range(40):
        mine = [[item for who, item in part if who == user] for part in (train, val, test)]
        total = sum(map(len, mine))
        assert list(map(len, mine))[1:] == ([max(1, total // 10), max(1, total // 5)] if total > 2 else [0, 0])
        newest = {item for who, item in late if who == user}
        assert newest <= set(mine[2]) or newest >= set(mine[2]), "validation pairs are the newest"

    assert inner.full.text is not None and held.text is not None
    assert torch.equal(inner.full.text.item, held.text.item[known])
    cold_items = torch.bincount(small.train.items, minlength=len(known)) == 0
    assert 0 < cold_items.sum() < len(known) and cold_items[small.test.items].all()


def test_recall_at_a_loss_is_that_of_lists_with_scaled_cold_items(tmp_path):
    full = from_folder("board", write_board(tmp_path))
    held = cold.hold_out(full, 0.3, seed=1)
    hidden = torch.bincount(held.interactions.train.items, minlength=60) == 0
    torch.manual_seed(0)
    final = Representations(torch.rand(100, 6), 40)

    def scaled(scale: float) -> Representations:
        item = final.item.clone()
        item[hidden] *= scale
        return Representations.join(final.user, item)

    found = {loss: cold_growth.recall_at_loss(final, held, full, loss) for loss in (0.0, 0.2, 1.0)}
    assert found[0.0] < found[1.0] and found[0.0] <= found[0.2] <= found[1.0]
    assert found[1.0] == pytest.approx(cold.among_all(scaled(10), held)[0]), "any loss: the largest scale"
    scales = torch.logspace(-1, 1, 801).tolist()
    warm = [cold.warm_recall(scaled(scale), held, full) for scale in scales[::40]]
    allowed = max(scale for scale, (recall, alone) in zip(scales[::40], warm, strict=True) if recall >= 0.8 * alone)
    assert found[0.2] >= cold.among_all(scaled(allowed), held)[0]


def test_the_command_chooses_the_growth_and_uses_it(tmp_path):
    recipe = {
        "name": "cold",
        "data": {"board": str(write_board(tmp_path / "board"))},
        "seeds": [0, 1],
        "base": {"dim": 8, "epochs": 2, "eval_every": 1, "batch_size": 128, "device": "cpu", "cold_start": "none"},
        "backbones": {"mf": {"backbone": {"name": "mf"}}},
        "alignments": {"darec": {"alignment": [{"name": "darec", "weight": 0.1, "centres": 2}]}},
    }
    (tmp_path / "bench.yaml").write_text(json.dumps(recipe))
    options = ["--share", "0.3", "--growth", "0", "--growth", "0.5", "--store", str(tmp_path / "store")]
    arguments = ["bench", "cold-start", str(tmp_path / "bench.yaml"), *options, "--out", str(tmp_path / "out")]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    tables = (tmp_path / "out" / "table.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines() if "mf + darec, seed" in line]
    validation, test = rows[:2], rows[2:4]
    means = [sum(float(row[column]) for row in validation) / 2 for column in (2, 3)]
    best = 0.5 if means[1] > means[0] else 0
    assert f"mean: {best:g} is chosen" in tables and len(validation[0]) == 4 and len(test[0]) == 3
    assert len(list(Store(tmp_path / "store").artifacts())) == 4, "two seeds, each on the data and on the nested data"
