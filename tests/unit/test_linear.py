import numpy as np
import pytest
import torch

from darec.alignment.linear_teacher import LinearTeacher
from darec.common.errors import UserError
from darec.model import linear
from darec.model.interactions import Batch, Interactions, Pairs, Representations
from schemas.alignment import LinearTeacherConfig

TRAIN = Pairs(torch.tensor([0, 0, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 0, 1, 2, 3, 0]))


def test_weights_are_those_of_ridge_regressions_of_each_item_on_the_others():
    """Column j minimises |y - A b|^2 + l2 |b|^2 over b with b_j = 0, A being users' rows and then text dimensions."""
    text = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    history = np.zeros((3, 4))
    history[TRAIN.users, TRAIN.items] = 1
    rows = np.concatenate([history, np.sqrt(5.0) * text.numpy().T])
    weights = linear.item_weights(TRAIN, 3, text, l2=2.0, text=5.0).numpy()
    for item in range(4):
        others = np.delete(np.arange(4), item)
        a = rows[:, others]
        expected = np.linalg.solve(a.T @ a + 2.0 * np.eye(3), a.T @ rows[:, item])
        assert weights[others, item] == pytest.approx(expected, abs=1e-5)
        assert weights[item, item] == 0


def test_top_unseen_ranks_what_a_history_speaks_for():
    weights = torch.tensor([[0.0, 9, 1, 2], [9, 0, 3, 1], [0, 0, 0, 0], [5, 6, 7, 0]])
    items, scores = linear.top_unseen(TRAIN, 3, weights, 2)
    assert items[0].tolist() == [2, 3]
    assert scores[0].tolist() == [4, 3]
    assert items[2][0] == 1
    assert scores[2].tolist() == [15, -torch.inf]  # the user has all items but one


def test_too_many_items_are_refused(monkeypatch):
    monkeypatch.setattr(linear, "_MOST_ITEMS", 3)
    with pytest.raises(UserError, match="too many"):
        linear.item_weights(TRAIN, 3, torch.ones(4, 2), 1.0, 1.0)


def test_the_objective_is_the_cross_entropy_of_sharpened_scores_over_unseen_items():
    generator = torch.Generator().manual_seed(0)
    data = Interactions(3, 4, TRAIN, TRAIN, TRAIN)
    text = Representations(torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1), 3)
    config = LinearTeacherConfig(l2=2.0, text=5.0, whiten=0, top=2, sharpness=3.0, temperature=0.5, users="batch")
    final = Representations(torch.randn(7, 2, generator=generator), 3)
    batch = Batch(torch.tensor([1, 0]), torch.tensor([0, 0]), torch.tensor([2, 2]))
    term = LinearTeacher(config, text, data)(final, batch)["linear-teacher"]

    scores = np.zeros((3, 4))
    scores[TRAIN.users, TRAIN.items] = 1
    scores = scores @ linear.item_weights(TRAIN, 3, text.item, 2.0, 5.0).numpy()
    logits = final.user.numpy() @ final.item.numpy().T / 0.5
    losses = []
    for user in (1, 0):  # both have items 0 and 1, so 2 and 3 are unseen
        wanted = scores[user, 2:].clip(0) ** 3
        wanted = wanted / wanted.sum() if wanted.sum() else np.full(2, 0.5)
        log_softmax = logits[user, 2:] - np.log(np.exp(logits[user, 2:]).sum())
        losses.append(-(wanted * log_softmax).sum())
    assert float(term) == pytest.approx(np.mean(losses), abs=1e-5)
