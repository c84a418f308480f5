"""Closed-form models against NumPy, and what the approximations must keep."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darec.alignment import linear_teacher
from darec.alignment.base import Setting
from darec.alignment.linear_teacher import LinearTeacher
from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, Pairs, Representations
from darec.model import closed_form, item_weights
from darec.model.factorisation import factorise
from darec.model.gf_cf import graph_filter
from darec.model.ials import alternating_least_squares
from darec.model.item_knn import nearest_items
from darec.model.item_weights import DenseWeights, FactoredWeights, SumOfWeights, history_matrix, top_unseen
from darec.model.neighbours import neighbour_weights
from darec.model.propagation import Adjacency
from darec.model.ridge import ease, ease_with_text_rows, l3ae, text_prior
from schemas.alignment import LinearTeacherConfig
from schemas.backbones import EASEConfig, GraphFilterConfig, ItemKNNConfig, L3AEConfig

TRAIN = Pairs(torch.tensor([0, 0, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 0, 1, 2, 3, 0]))
HISTORY = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1]], dtype=float)


def unit_text(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def random_train(users: int, items: int, seed: int) -> tuple[Pairs, np.ndarray]:
    history = (np.random.default_rng(seed).random((users, items)) < 0.3).astype(float)
    return Pairs.of(*history.nonzero()), history


def regressions(rows: np.ndarray, l2: float, prior: np.ndarray) -> np.ndarray:
    """Column j minimises |y - A b|^2 + l2 |b - c|^2 over b with b_j = 0, c being column j of `prior`."""
    items = rows.shape[1]
    result = np.zeros((items, items))
    for item in range(items):
        others = np.delete(np.arange(items), item)
        a, c = rows[:, others], prior[others, item]
        result[others, item] = np.linalg.solve(a.T @ a + l2 * np.eye(items - 1), a.T @ rows[:, item] + l2 * c)
    return result


def test_ease_regresses_each_item_on_the_others():
    expected = regressions(HISTORY, 2.0, np.zeros((4, 4)))
    assert ease(TRAIN, 3, 4, 2.0).matrix.numpy() == pytest.approx(expected, abs=1e-5)


def test_ease_with_text_rows_has_text_dimensions_as_further_rows():
    text = unit_text(4, 6)
    rows = np.concatenate([HISTORY, np.sqrt(5.0) * text.numpy().T])
    expected = regressions(rows, 2.0, np.zeros((4, 4)))
    assert ease_with_text_rows(TRAIN, 3, text, 2.0, 5.0).matrix.numpy() == pytest.approx(expected, abs=1e-5)


def test_the_prior_is_ease_of_the_texts():
    text = unit_text(7)
    prior = text_prior(3 * text, l2=0.5, scale=1.25)  # texts are brought to unit length
    weights = (prior.left @ prior.right.T - torch.diag(prior.diagonal)).numpy()
    assert weights == pytest.approx(1.25 * regressions(text.numpy().T, 0.5, np.zeros((7, 7))), abs=1e-5)


def test_l3ae_regresses_each_item_on_the_others_towards_the_prior():
    text = unit_text(4)
    c = 1.5 * regressions(text.numpy().T, 0.5, np.zeros((4, 4)))
    weights = l3ae(TRAIN, 3, 4, 2.0, text_prior(text, 0.5, 1.5)).matrix.numpy()
    assert weights == pytest.approx(regressions(HISTORY, 2.0, c), abs=1e-5)


def test_l3ae_is_the_published_formula():
    """C = EASE(text; rF), B = P (X'X + rE C) - P diag(g), P = (X'X + (rX + rE) I)^-1; rX may be negative."""
    text, r_x, r_e = unit_text(4), -0.5, 2.0
    c = regressions(text.numpy().T, 0.7, np.zeros((4, 4)))
    gram = HISTORY.T @ HISTORY
    p = np.linalg.inv(gram + (r_x + r_e) * np.eye(4))
    b = p @ (gram + r_e * c)
    expected = b - p * (np.diag(b) / np.diag(p))
    weights = l3ae(TRAIN, 3, 4, r_x + r_e, text_prior(text, 0.7, r_e / (r_x + r_e))).matrix.numpy()
    assert weights == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_text", [False, True])
def test_with_all_items_as_neighbours_the_approximation_is_exact(with_text):
    train, _ = random_train(40, 17, seed=3)
    prior = text_prior(unit_text(17), 0.5, 1.3) if with_text else None
    exact = l3ae(train, 40, 17, 3.0, prior) if prior else ease(train, 40, 17, 3.0)
    close = neighbour_weights(train, 40, 17, 3.0, 16, prior)
    assert close.times(torch.eye(17)).numpy() == pytest.approx(exact.matrix.numpy(), abs=1e-5)


def test_few_neighbours_solve_the_regression_on_these_alone():
    """Items 0 and 1 appear together, items 2 and 3 too, and item 4 with nobody: one neighbour each is all there is."""
    users, items = [0, 0, 1, 1, 2, 3, 3, 4, 4, 5], [0, 1, 0, 1, 0, 2, 3, 2, 3, 4]
    weights = neighbour_weights(Pairs(torch.tensor(users), torch.tensor(items)), 6, 5, 1.0, 1, None)
    found = weights.times(torch.eye(5)).numpy()
    expected = np.zeros((5, 5))
    expected[1, 0], expected[0, 1] = 2 / (2 + 1), 2 / (3 + 1)  # G_ij / (G_ii + l2)
    expected[3, 2] = expected[2, 3] = 2 / (2 + 1)
    assert found == pytest.approx(expected, abs=1e-6)


def test_blocks_do_not_change_the_approximation(monkeypatch):
    train, _ = random_train(50, 23, seed=5)
    prior = text_prior(unit_text(23), 0.5, 1.3)
    whole = neighbour_weights(train, 50, 23, 3.0, 6, prior).times(torch.eye(23))
    monkeypatch.setattr("darec.model.neighbours._BLOCK_SCORES", 70)
    monkeypatch.setattr("darec.model.neighbours._BLOCK_ENTRIES", 200)
    assert torch.allclose(neighbour_weights(train, 50, 23, 3.0, 6, prior).times(torch.eye(23)), whole, atol=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_all_forms_of_weights_have_the_products_of_their_matrix(seed):
    train, history = random_train(20, 9, seed)
    prior = text_prior(unit_text(9, seed=seed), 0.5, 1.3)
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(9, 3, generator=generator)
    for weights in (
        ease(train, 20, 9, 2.0),
        neighbour_weights(train, 20, 9, 2.0, 3, prior),
        graph_filter(train, 20, 9, 2, 0.4),
        graph_filter(train, 20, 9, 2, 0.4, 0.7),
        SumOfWeights(ease(train, 20, 9, 2.0), graph_filter(train, 20, 9, 2, 0.4), 0.7),
    ):
        matrix = weights.times(torch.eye(9))
        assert torch.allclose(weights.times(columns), matrix @ columns, atol=1e-4)
        assert torch.allclose(weights.transposed_times(columns), matrix.T @ columns, atol=1e-4)
        scores = weights.scores(history_matrix(train, 20, 9))
        assert torch.allclose(scores, torch.from_numpy(history).float() @ matrix, atol=1e-4)


def test_graph_filter_is_the_published_formula():
    train, history = random_train(12, 8, seed=2)
    history[:, 7] = 0  # an item without interactions
    train = Pairs.of(*history.nonzero())
    users, items = history.sum(1), np.maximum(history.sum(0), 1)
    normalised = history / np.sqrt(np.maximum(users, 1))[:, None] / np.sqrt(items)
    vectors = np.linalg.svd(normalised)[2][:3].T
    ideal = np.diag(items**-0.5) @ vectors @ vectors.T @ np.diag(items**0.5)
    torch.manual_seed(0)
    found = graph_filter(train, 12, 8, components=3, ideal=0.3).times(torch.eye(8)).numpy()
    assert found == pytest.approx(normalised.T @ normalised + 0.3 * ideal, abs=1e-4)


def test_sharpening_subtracts_the_blur_of_the_scores():
    train, history = random_train(30, 12, seed=3)
    users, items = history.sum(1), np.maximum(history.sum(0), 1)
    normalised = history / np.sqrt(np.maximum(users, 1))[:, None] / np.sqrt(items)
    torch.manual_seed(0)
    blurred = graph_filter(train, 30, 12, 4, 0.3).times(torch.eye(12)).numpy()
    torch.manual_seed(0)
    sharp = graph_filter(train, 30, 12, 4, 0.3, sharpen=0.6).times(torch.eye(12)).numpy()
    assert sharp == pytest.approx(blurred - 0.6 * blurred @ normalised.T @ normalised, abs=1e-5)


def test_a_graph_filter_beside_a_regression_has_the_wanted_share_of_the_scores():
    train, history = random_train(30, 12, seed=6)
    data = Interactions(30, 12, train, train, train)
    torch.manual_seed(0)
    both = closed_form.item_weights(EASEConfig(l2=2.0, graph=0.5), data, None).times(torch.eye(12)).numpy()
    regression = ease(train, 30, 12, 2.0).matrix.numpy()
    torch.manual_seed(0)
    graph = graph_filter(train, 30, 12, 256, 0.3).times(torch.eye(12)).numpy()
    factor = 0.5 * (history @ regression).std() / (history @ graph).std()
    assert both == pytest.approx(regression + factor * graph, abs=1e-4)


def test_without_text_the_graph_filter_stays():
    assert L3AEConfig(graph=0.3).without_text() == EASEConfig(graph=0.3)


def test_settings_of_the_default_teacher_are_refused_beside_another_one():
    with pytest.raises(ValidationError, match=r"text configure the default teacher, and model is l3ae"):
        LinearTeacherConfig(model=L3AEConfig(), text=3.0)
    whole = LinearTeacherConfig(model=L3AEConfig())
    assert LinearTeacherConfig.model_validate(whole.model_dump()) == whole


def test_vectors_of_full_width_have_the_scores_of_the_weights():
    train, history = random_train(30, 12, seed=4)
    weights = l3ae(train, 30, 12, 3.0, text_prior(unit_text(12), 0.5, 1.3))
    torch.manual_seed(0)
    final = factorise(train, 30, 12, weights, dim=12)
    scores = final.user @ final.item.T
    assert scores.numpy() == pytest.approx(history @ weights.matrix.numpy(), abs=1e-4)


@pytest.mark.parametrize("config", [EASEConfig(), GraphFilterConfig(), ItemKNNConfig()])
def test_items_of_the_same_users_are_similar_at_full_width(config):
    """Forty items of four kinds; each user has items of one kind, and one item of any."""
    chance, n_users, n_items = np.random.default_rng(0), 200, 40
    history = np.zeros((n_users, n_items), bool)
    for user in range(n_users):
        history[user, 4 * chance.choice(10, 4, replace=False) + user % 4] = True
        history[user, chance.integers(n_items)] = True
    data = Interactions(n_users, n_items, Pairs.of(*history.nonzero()), *(Pairs.of(*np.zeros((2, 0), int)),) * 2)

    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(closed_form.fit(config, data, None, n_items).item, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-1).topk(9).indices
    assert (nearest % 4 == torch.arange(n_items)[:, None] % 4).float().mean() > 0.9


def test_wider_vectors_are_closer_and_the_best_of_their_width():
    """Where histories are equally long and columns too, the factors are those of the truncated SVD."""
    history = np.stack([np.roll([1, 1, 0, 0, 0, 0], shift) for shift in range(6)]).astype(float)
    train = Pairs.of(*history.nonzero())
    matrix = np.zeros((6, 6))
    for shift, value in ((1, 3.0), (2, 1.0), (5, 0.5)):
        matrix += value * np.roll(np.eye(6), shift, axis=1)
    scores = history @ matrix
    singular = np.linalg.svd(scores)[1]
    for dim in (1, 3, 5):
        torch.manual_seed(0)
        final = factorise(train, 6, 6, DenseWeights(torch.from_numpy(matrix).float()), dim)
        error = np.square(scores - (final.user @ final.item.T).numpy()).sum()
        assert error == pytest.approx(np.square(singular[dim:]).sum(), rel=0.05, abs=1e-6)


@pytest.mark.parametrize("dim", [3, 5, 12])  # lists longer than the width, of both kinds, and shorter
def test_ials_sweeps_solve_each_row_exactly(dim):
    """After the items' half of a sweep, the gradient of the objective by every item's row is 0."""
    train, history = random_train(15, 10, seed=1)
    torch.manual_seed(0)
    l2, unobserved = 0.01, 0.1
    final = alternating_least_squares(train, 15, 10, dim, sweeps=2, l2=l2, unobserved=unobserved)
    user, item = final.user.double().numpy(), final.item.double().numpy()
    scores = user @ item.T
    gradient = (history * (scores - 1) + unobserved * scores).T @ user
    gradient += l2 * (history.sum(0) + unobserved * 15)[:, None] * item
    assert gradient == pytest.approx(0, abs=1e-4)
    assert np.abs(item).max() > 0.1


@pytest.mark.parametrize("dim", [3, 5, 12])
def test_ials_of_lists_in_many_blocks_is_the_same(monkeypatch, dim):
    train, _ = random_train(15, 10, seed=1)
    torch.manual_seed(0)
    whole = alternating_least_squares(train, 15, 10, dim, 2, 0.01, 0.1).nodes
    monkeypatch.setattr("darec.model.ials._BLOCK", 30)
    torch.manual_seed(0)
    assert torch.allclose(alternating_least_squares(train, 15, 10, dim, 2, 0.01, 0.1).nodes, whole, atol=1e-5)


def test_a_user_without_positive_scores_is_taught_unseen_items_alone():
    """Fewer items are unseen than the teacher names: those in their places are seen ones, with the score -inf."""
    scores = torch.tensor([[0.0, -1.0, -torch.inf], [4.0, 1.0, -torch.inf]])
    expected = torch.tensor([[0.5, 0.5, 0.0], [16 / 17, 1 / 17, 0.0]])
    torch.testing.assert_close(linear_teacher._shares(scores, 2.0), expected)


def test_top_unseen_ranks_what_a_history_speaks_for():
    weights = DenseWeights(torch.tensor([[0.0, 9, 1, 2], [9, 0, 3, 1], [0, 0, 0, 0], [5, 6, 7, 0]]))
    items, scores = top_unseen(TRAIN, 3, 4, weights, 2)
    assert items[0].tolist() == [2, 3]
    assert scores[0].tolist() == [4, 3]
    assert items[2][0] == 1
    assert scores[2].tolist() == [15, -torch.inf]  # the user has all items but one


def test_a_large_catalogue_is_solved_approximately():
    data, text = Interactions(3, 4, TRAIN, TRAIN, TRAIN), Representations(unit_text(7), 3)
    for config in (EASEConfig(exact_up_to=3), L3AEConfig(exact_up_to=3)):
        assert isinstance(closed_form.item_weights(config, data, text), FactoredWeights)
    for config in (EASEConfig(), L3AEConfig()):
        assert isinstance(closed_form.item_weights(config, data, text), DenseWeights)


def test_what_needs_text_says_so():
    data = Interactions(3, 4, TRAIN, TRAIN, TRAIN)
    with pytest.raises(UserError, match="text vectors are required"):
        closed_form.fit(L3AEConfig(), data, None, 2)


def test_the_default_teacher_of_a_large_catalogue_is_approximated_and_says_so(monkeypatch, caplog):
    data, text = Interactions(3, 4, TRAIN, TRAIN, TRAIN), Representations(unit_text(7), 3)
    monkeypatch.setattr(closed_form, "_MOST_TEXT_ROWS_ITEMS", 3)
    with caplog.at_level(logging.INFO):
        weights = closed_form.text_rows_weights(data, text, 1.0, 1.0, 0)
    assert isinstance(weights, FactoredWeights)
    assert "4 items" in caplog.text


def test_scores_of_a_block_of_users_are_bounded(monkeypatch):
    train, _ = random_train(50, 20, 0)
    weights = DenseWeights(torch.rand(20, 20, generator=torch.Generator().manual_seed(0)))
    whole, scored, plain = top_unseen(train, 50, 20, weights, 3), [], DenseWeights.scores
    monkeypatch.setattr(item_weights, "_MOST_SCORES", 140)
    monkeypatch.setattr(DenseWeights, "scores", lambda self, rows: scored.append(rows.shape[0]) or plain(self, rows))
    assert all(map(torch.equal, top_unseen(train, 50, 20, weights, 3), whole))
    assert max(scored) == 7


@pytest.mark.parametrize("shrink", [0.0, 1.5])
def test_item_knn_keeps_the_greatest_shrunk_cosines_of_each_item(shrink):
    train, history = random_train(30, 9, 1)
    together, lengths = history.T @ history, np.sqrt(history.sum(0))
    cosines = together / (np.outer(lengths, lengths) + shrink)
    np.fill_diagonal(cosines, 0)
    expected = np.where(cosines >= np.sort(cosines, axis=0)[-3], cosines, 0)
    weights = nearest_items(train, 30, 9, 3, shrink)
    assert weights.times(torch.eye(9)).numpy() == pytest.approx(expected, abs=1e-6)
    assert weights.scores(history_matrix(train, 30, 9)).numpy() == pytest.approx(history @ expected, abs=1e-5)


@pytest.mark.parametrize("section", list(closed_form.CLOSED_FORMS))
def test_users_and_items_without_interactions_have_finite_vectors(section):
    data = Interactions(5, 6, TRAIN, TRAIN, TRAIN)  # users 3 and 4, and items 4 and 5, are cold
    torch.manual_seed(0)
    final = closed_form.fit(section(), data, Representations(unit_text(11), 5), 3)
    assert final.nodes.shape == (11, 3)
    assert torch.isfinite(final.nodes).all()


@pytest.mark.parametrize("model", [None, L3AEConfig(l2=2.0, text_l2=0.5), EASEConfig(l2=2.0)])
def test_the_teacher_is_the_cross_entropy_of_sharpened_scores_over_unseen_items(model):
    generator = torch.Generator().manual_seed(0)
    data = Interactions(3, 4, TRAIN, TRAIN, TRAIN)
    text = Representations(torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1), 3)
    default = {} if model else {"l2": 2.0, "text": 5.0, "whiten": 0}
    config = LinearTeacherConfig(model=model, top=2, sharpness=3.0, temperature=0.5, users="batch", **default)
    final = Representations(torch.randn(7, 2, generator=generator), 3)
    batch = Batch(torch.tensor([1, 0]), torch.tensor([0, 0]), torch.tensor([2, 2]))
    setting = Setting(text, data, Adjacency.normalised(TRAIN, 3, 4), 2, 2)
    term = LinearTeacher(config, setting)(final, batch)["linear-teacher"]

    if model is None:
        weights = ease_with_text_rows(TRAIN, 3, text.item, 2.0, 5.0).matrix
    else:
        weights = closed_form.item_weights(model, data, text).times(torch.eye(4))
    scores = HISTORY @ weights.numpy()
    logits = final.user.numpy() @ final.item.numpy().T / 0.5
    losses = []
    for user in (1, 0):  # both have items 0 and 1, so 2 and 3 are unseen
        wanted = scores[user, 2:].clip(0) ** 3
        wanted = wanted / wanted.sum() if wanted.sum() else np.full(2, 0.5)
        log_softmax = logits[user, 2:] - np.log(np.exp(logits[user, 2:]).sum())
        losses.append(-(wanted * log_softmax).sum())
    assert float(term) == pytest.approx(np.mean(losses), abs=1e-5)
