import numpy as np
import pytest
import torch

from darec.common.interactions import Pairs, Representations
from darec.model import text_graph
from darec.model.propagation import Adjacency, power_sum, product
from darec.model.text_graph import text_neighbours

USERS, ITEMS = 7, 5


@pytest.fixture
def pairs():
    generator = np.random.default_rng(1)
    users, items = np.nonzero(generator.random((USERS, ITEMS)) < 0.5)
    return Pairs.of(users, items)


def dense(pairs):
    block = np.zeros((USERS, ITEMS))
    block[pairs.users, pairs.items] = 1
    matrix = np.block([[np.zeros((USERS, USERS)), block], [block.T, np.zeros((ITEMS, ITEMS))]])
    scale = 1 / np.sqrt(np.maximum(matrix.sum(1), 1))
    return matrix * scale[:, None] * scale[None, :]


def test_normalised_matches_its_definition(pairs):
    adjacency = Adjacency.normalised(pairs, USERS, ITEMS)
    np.testing.assert_allclose(adjacency.matrix.to_dense().numpy(), dense(pairs), atol=1e-6)


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
def test_power_sum_and_its_gradient(pairs, layers):
    adjacency, matrix = Adjacency.normalised(pairs, USERS, ITEMS), dense(pairs)
    total = sum(np.linalg.matrix_power(matrix, layer) for layer in range(layers + 1))
    nodes, weight = torch.randn(USERS + ITEMS, 3, requires_grad=True), torch.randn(USERS + ITEMS, 3)
    out = power_sum(adjacency, nodes, layers)
    (out * weight).sum().backward()
    np.testing.assert_allclose(out.detach().numpy(), total @ nodes.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(nodes.grad.numpy(), total.T @ weight.numpy(), atol=1e-5)


def test_product_and_its_gradient(pairs):
    adjacency, matrix = Adjacency.normalised(pairs, USERS, ITEMS), dense(pairs)
    nodes = torch.randn(USERS + ITEMS, 3, requires_grad=True)
    out = product(adjacency, nodes)
    out.square().sum().backward()
    np.testing.assert_allclose(out.detach().numpy(), matrix @ nodes.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(nodes.grad.numpy(), 2 * matrix.T @ out.detach().numpy(), atol=1e-5)


def test_drop_keeps_the_graph_symmetric_and_about_the_share(pairs):
    torch.manual_seed(0)
    adjacency = Adjacency.normalised(pairs, USERS, ITEMS)
    whole, shares = adjacency.matrix.to_dense(), []
    for _ in range(50):
        part = adjacency.drop(0.7).matrix.to_dense()
        assert torch.equal(part, part.T)
        assert torch.all((part == 0) | (part == whole))
        shares.append((part > 0).sum().item() / (whole > 0).sum().item())
    assert np.mean(shares) == pytest.approx(0.7, abs=0.05)
    assert adjacency.drop(1.0) is adjacency


def test_edges_of_popular_nodes_are_dropped_more_often_and_the_rest_is_normalised():
    generator = np.random.default_rng(0)
    users, items = np.nonzero(generator.random((60, 40)) < np.linspace(0.02, 0.9, 40))
    pairs = Pairs.of(users, items)
    graph = Adjacency.normalised(pairs, 60, 40)
    torch.manual_seed(0)
    kept = torch.zeros(100, 100)
    for _ in range(300):
        dropped = graph.drop(0.5, by_degree=True).matrix.to_dense()
        there = (dropped > 0).float()
        degrees = there.sum(1).clamp_min(1)
        assert torch.allclose(dropped, there / (degrees[:, None] * degrees).sqrt(), atol=1e-6)
        assert torch.equal(dropped, dropped.T)
        kept += there
    weights = graph.matrix.to_dense()
    edges = weights > 0
    chance = (0.5 * weights / weights[edges].mean()).clamp_max(1)
    assert float((kept[edges] / 300 - chance[edges]).abs().max()) < 0.12  # four standard errors
    assert graph.drop(1.0, by_degree=True) is graph


def test_text_neighbours_by_hand():
    text = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 0.0], [-1.0, -1.0]])
    found = text_neighbours(text, 1).matrix.to_dense()
    edges = torch.zeros(5, 5)
    for first, second in ((0, 1), (1, 2)):  # 1 is the nearest of 0 and of 2, and 0 that of 1
        edges[first, second] = edges[second, first] = 1
    degrees = edges.sum(1).clamp_min(1)
    assert torch.allclose(found, edges / (degrees[:, None] * degrees).sqrt()), "an empty text has no neighbours"
    assert torch.equal(text_neighbours(text, 99).matrix.to_dense() > 0, (text @ text.T > 0).fill_diagonal_(False))


@pytest.mark.parametrize("block", [1, 2**25])  # a user at a time, all at once
def test_retrieved_items_by_hand(block, monkeypatch):
    monkeypatch.setattr(text_graph, "_BLOCK_SCORES", block)
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    items = torch.tensor([[3.0, 0.3], [1.0, 1.0], [0.1, 1.0], [-1.0, -1.0]])
    train = Pairs(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3]))
    text = Representations.join(users, items)

    def found(count, excluded):
        pairs = text_graph.retrieved_items(text, count, excluded)
        return list(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))

    assert found(1, train) == [(0, 1), (1, 1)], "an empty text has no items"
    none = Pairs(train.users[:0], train.items[:0])
    assert found(2, none) == [(0, 0), (0, 1), (1, 2), (1, 1)]
    assert found(99, train) == [(0, 1), (0, 2), (1, 1), (1, 0)]
