import numpy as np
import pytest
import torch

from darec import linear
from darec.errors import UserError
from darec.interactions import Pairs

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
