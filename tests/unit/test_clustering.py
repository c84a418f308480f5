import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.model import clustering


def blobs():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return centres, torch.cat([centre + 0.1 * torch.randn(30, 2) for centre in centres])


def test_kmeans_finds_separated_blobs():
    torch.manual_seed(0)
    centres, rows = blobs()
    found = clustering.kmeans(rows, clustering.initial_centres(rows, 3), 10)
    order = clustering.match(torch.cdist(centres, found), "optimal")
    assert torch.allclose(found[order], centres, atol=0.2)


def test_a_centre_without_rows_stays():
    rows, far = torch.zeros(4, 2), torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    assert torch.equal(clustering.kmeans(rows, far, 3), far)


def test_gradients_reach_rows_through_means():
    rows = torch.randn(6, 2, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    clustering.means(rows, labels, torch.zeros(3, 2))[0].sum().backward()
    assert torch.allclose(rows.grad, (labels == 0).float()[:, None].expand(-1, 2) / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_matching_is_a_permutation_and_optimal_is_best(count, seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(count, 3, generator=generator), torch.randn(count, 3, generator=generator)
    distance = torch.cdist(left, right)
    totals = {}
    for how in ("greedy", "optimal"):
        partner = clustering.match(distance, how).numpy()
        assert sorted(partner) == list(range(count))
        totals[how] = distance.numpy()[np.arange(count), partner].sum()
    best = min(distance.numpy()[np.arange(count), list(p)].sum() for p in itertools.permutations(range(count)))
    assert totals["optimal"] <= totals["greedy"] + 1e-5
    assert abs(totals["optimal"] - best) < 1e-4


def test_greedy_takes_the_nearest_pair_first():
    left, right = torch.tensor([[0.0], [3.0]]), torch.tensor([[2.0], [9.0]])
    assert clustering.match(torch.cdist(left, right), "greedy").tolist() == [1, 0]


def test_shared_members_by_hand():
    left, right = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 1])
    assert clustering.shared_members(left, right, 2).tolist() == [[0, 2], [1, 1]]
