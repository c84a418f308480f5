import pytest
import torch

from darec.common.interactions import Pairs
from darec.model.edges import Pattern, edge_scores, weighted_sum
from darec.model.propagation import Adjacency


@pytest.fixture
def pattern():
    """Users 0 to 2 and items 3 and 4: a path 3-0-4-1, and user 2 alone."""
    pairs = Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    return Pattern.of(Adjacency.normalised(pairs, 3, 2))


def test_pattern_is_in_row_order_and_knows_each_entrys_reverse(pattern):
    entries = list(zip(pattern.rows.tolist(), pattern.columns.tolist(), strict=True))
    assert entries == [(0, 3), (0, 4), (1, 4), (3, 0), (4, 0), (4, 1)]
    assert [entries[at] for at in pattern.reverse] == [(column, row) for row, column in entries]


def test_scores_and_sums_match_dense_matrices(pattern):
    left, right, values = torch.randn(5, 3), torch.randn(5, 3), torch.rand(len(pattern))
    scores = (left @ right.T)[pattern.rows, pattern.columns]
    torch.testing.assert_close(edge_scores(pattern, left, right), scores)
    dense = torch.zeros(5, 5)
    dense[pattern.rows, pattern.columns] = values
    torch.testing.assert_close(weighted_sum(pattern, values, right), dense @ right)


def test_gradients(pattern):
    left, right = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    values = torch.rand(len(pattern), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: edge_scores(pattern, a, b), (left, right))
    assert torch.autograd.gradcheck(lambda v, n: weighted_sum(pattern, v, n), (values, left))


def test_row_shares_sum_to_one_in_each_row(pattern):
    shares = pattern.row_shares(torch.tensor([1.0, 3.0, 5.0, 2.0, 1.0, 1.0]))
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.75, 1.0, 1.0, 0.5, 0.5]))
