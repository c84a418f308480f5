"""Preference centres: k-means and the matching of two sets of centres."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """The number of the centre nearest to each row; [n, d], [K, d] -> int64 [n]."""
    return (centres.square().sum(1) - 2 * rows @ centres.T).argmin(1)


def means(rows: Tensor, labels: Tensor, fallback: Tensor) -> Tensor:
    """Mean of the rows of each label; [n, d], int64 [n] -> [K, d]. A label without rows takes its row of `fallback`.

    Gradients reach the rows; the labels are constants.
    """
    member = (labels[:, None] == torch.arange(len(fallback), device=labels.device)).to(rows.dtype)
    count = member.sum(0)
    return (member / count.clamp_min(1)).T @ rows + fallback * (count == 0)[:, None]


def kmeans(rows: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm from `centres` on, at most `iterations` times: [n, d], [K, d] -> [K, d]."""
    labels = nearest(rows, centres)
    for _ in range(iterations):
        centres, before = means(rows, labels, centres), labels
        labels = nearest(rows, centres)
        if torch.equal(labels, before):
            break
    return centres


def spread(rows: Tensor, count: int) -> Tensor:
    """`count` rows far from each other, as first centres: each is drawn by its squared distance (k-means++)."""
    chosen = torch.randint(len(rows), (1,), device=rows.device)
    for _ in range(count - 1):
        distance = torch.cdist(rows, rows[chosen]).amin(1).square()
        chosen = torch.cat([chosen, torch.multinomial(distance + 1e-12, 1)])
    return rows[chosen]


def shared_members(left: Tensor, right: Tensor, count: int) -> Tensor:
    """How many rows have label a in `left` and b in `right`: int64 [n], int64 [n] -> float32 [count, count]."""
    return torch.bincount(left * count + right, minlength=count**2).view(count, count).float()


def match(cost: Tensor, how: str) -> Tensor:
    """For each row of `cost` [K, K] its column: int64 [K], a permutation.

    greedy: the cheapest free pair first. optimal: least total cost (Hungarian algorithm).
    """
    matrix = cost.cpu().double().numpy()
    partner = linear_sum_assignment(matrix)[1] if how == "optimal" else _greedy(matrix)
    return torch.from_numpy(np.asarray(partner, dtype=np.int64)).to(cost.device)


def _greedy(cost: np.ndarray) -> np.ndarray:
    cost, partner = cost.copy(), np.zeros(len(cost), dtype=np.int64)
    for _ in range(len(cost)):
        row, column = np.unravel_index(np.argmin(cost), cost.shape)
        partner[row] = column
        cost[row, :] = cost[:, column] = np.inf
    return partner
