import numpy as np
import pytest
import torch

from darec.common.interactions import Pairs
from darec.model.propagation import Adjacency, power_sum, product

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
