"""Preference centres: k-means and the matching of two sets of centres."""

import numpy as np
import torch
from torch import Tensor

_DRAWN_AT_ONCE = 1 << 20  # maximum number of weights for which samples are drawn at once
_TRACE = 2.0**-27  # weight of a row that is to count only if there is no other; exact, and below float32's precision
_MOST_SUBSETS = 12  # maximum number of centres for the dynamic programme over all subsets


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """The number of the centre nearest to each row; [n, d], [K, d] -> int64 [n].

    |x - c|^2 = |x|^2 + |c|^2 - 2 x.c, and |x|^2 is the same for all centres.
    """
    return torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2).argmin(1)


def means(rows: Tensor, labels: Tensor, fallback: Tensor) -> Tensor:
    """Mean of the rows of each label; [n, d], int64 [n] -> [K, d]. A label without rows takes its row of `fallback`.

    Gradients reach the rows; the labels are constants.
    """
    member = _members(rows, labels, len(fallback))
    count = member.sum(0).add_(_TRACE)
    return _sums(rows, member, fallback) / count[:, None]


def directions(rows: Tensor, labels: Tensor, fallback: Tensor) -> Tensor:
    """Rows with the directions of `means`, [K, d], in fewer operations: cosines do not depend on lengths."""
    return _sums(rows, _members(rows, labels, len(fallback)), fallback)


def _members(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    return rows.new_zeros(len(rows), count).scatter_(1, labels[:, None], 1)


def _sums(rows: Tensor, member: Tensor, fallback: Tensor) -> Tensor:
    """The sum of the rows of each label, with its row of `fallback` as one more of negligible weight."""
    return torch.add(member.T @ rows, fallback, alpha=_TRACE)


def kmeans(rows: Tensor, centres: Tensor, iterations: int, *, fixed: bool = False) -> Tensor:
    """Lloyd's algorithm from `centres` on, at most `iterations` times: [n, d], [K, d] -> [K, d].

    `fixed` runs all iterations, with the same result: checking for convergence would synchronise with the device.
    """
    labels = nearest(rows, centres)
    for _ in range(iterations):
        centres, before = means(rows, labels, centres), labels
        labels = nearest(rows, centres)
        if not fixed and torch.equal(labels, before):
            break
    return centres


def initial_centres(rows: Tensor, count: int, *, fixed: bool = False) -> Tensor:
    """Initial centres: `count` rows, each drawn in proportion to its squared distance to the others (k-means++).

    `fixed` does not use torch.multinomial, which synchronises with the device to check its weights.
    """
    chosen = torch.randint(len(rows), (1,), device=rows.device)
    for _ in range(count - 1):
        distance = torch.cdist(rows, rows[chosen]).amin(1).square()
        weights = distance + 1e-12
        drawn = weighted_sample(weights, 1) if fixed else torch.multinomial(weights, 1)
        chosen = torch.cat([chosen, drawn])
    return rows[chosen]


def weighted_sample(weights: Tensor, count: int) -> Tensor:
    """`count` distinct numbers, drawn without replacement in proportion to their weights: [..., n] -> int64 [...,
    count].

    The largest values of weight / exponential noise (Efraimidis and Spirakis, 2006): noise / w_i is exponential with
    the rate w_i, and the smallest of independent exponentials is the i-th with probability w_i / sum_j w_j. Weights of
    0 come last.
    """
    return (weights / torch.empty_like(weights).exponential_()).topk(count).indices


class Samples:
    """Samples of nodes without replacement, in proportion to their weights, one for each step.

    They are drawn for many steps at once: on a GPU, selecting the largest values of one row keeps most of the device
    idle, and those of many rows take little longer.

    Args:
        nodes: the numbers of the nodes, int64 [n].
        weights: their weights, float32 [n].
        count: nodes in a sample, if there are as many.
    """

    def __init__(self, nodes: Tensor, weights: Tensor, count: int) -> None:
        self._nodes, self._weights = nodes, weights
        self._steps = max(1, _DRAWN_AT_ONCE // max(1, len(nodes)))
        self._waiting: list[Tensor] = []
        self.rows = nodes[:count].clone()
        """The sample of this step, int64 [count]: always the same tensor, which a recorded step reads."""

    def draw(self) -> None:
        """Replaces the sample by the next one."""
        if not self._waiting:
            weights = self._weights.expand(self._steps, -1)
            self._waiting = [*self._nodes[weighted_sample(weights, len(self.rows))]]
        self.rows.copy_(self._waiting.pop())

    def forget(self) -> None:
        """Drops the samples that were drawn in advance, so that a resumed run draws the same ones."""
        self._waiting = []


def shared_members(left: Tensor, right: Tensor, count: int) -> Tensor:
    """The contingency table of labels: rows with label a in `left` and b in `right`, int64 [n], int64 [n] -> float32
    [count, count].
    """
    names = torch.arange(count, device=left.device)
    return (left[:, None] == names).float().T @ (right[:, None] == names).float()


def match(cost: Tensor, how: str, *, fixed: bool = False) -> Tensor:
    """For each row of `cost` [K, K] its column: int64 [K], a permutation.

    greedy: the cheapest free pair first. optimal: minimum total cost (Hungarian algorithm). `fixed` runs on the device:
    optimal up to 12 rows, by dynamic programming over subsets of columns.
    """
    if fixed and how == "greedy":
        return _greedy_on_device(cost)
    if fixed and len(cost) <= _MOST_SUBSETS:
        return _optimal_on_device(cost)
    matrix = cost.cpu().double().numpy()
    partner = _optimal(matrix) if how == "optimal" else _greedy(matrix)
    return torch.from_numpy(np.asarray(partner, dtype=np.int64)).to(cost.device)


def _optimal(cost: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # slow to import, and every training process imports this file

    return linear_sum_assignment(cost)[1]


def _greedy(cost: np.ndarray) -> np.ndarray:
    cost, partner = cost.copy(), np.zeros(len(cost), dtype=np.int64)
    for _ in range(len(cost)):
        row, column = np.unravel_index(np.argmin(cost), cost.shape)
        partner[row] = column
        cost[row, :] = cost[:, column] = np.inf
    return partner


def _greedy_on_device(cost: Tensor) -> Tensor:
    size = len(cost)
    free, partner = cost.clone(), torch.zeros(size, dtype=torch.int64, device=cost.device)
    for _ in range(size):
        place = free.argmin(keepdim=True).view(1)
        row, column = place // size, place % size
        partner = partner.index_copy(0, row, column)
        free = free.index_fill(0, row, torch.inf).index_fill(1, column, torch.inf)
    return partner


def _optimal_on_device(cost: Tensor) -> Tensor:
    """Dynamic programme over subsets: least(S), the minimum cost of assigning the columns S to the first |S| rows.

    The last of these rows has one of the columns: least(S) = min_{c in S} [ least(S - c) + cost[|S| - 1, c] ]. A subset
    is an integer whose bits are its columns.
    """
    size, device = len(cost), cost.device
    bits = 1 << torch.arange(size, device=device)
    everything = torch.arange(1 << size, device=device)
    outside = (everything[:, None] & bits) == 0
    without = everything[:, None] & ~bits
    rows = size - outside.sum(1)  # how many rows a subset of columns is assigned to
    least = torch.where(everything == 0, 0.0, torch.inf).to(cost.dtype)
    last = torch.zeros_like(everything)

    for row in range(size):
        found = (least[without] + cost[row]).masked_fill_(outside, torch.inf).min(1)
        now = rows == row + 1
        least, last = torch.where(now, found.values, least), torch.where(now, found.indices, last)

    partner, left = torch.zeros(size, dtype=torch.int64, device=device), everything[-1:]
    for row in reversed(range(size)):
        column = last[left]
        partner[row] = column[0]
        left = left ^ bits[column]

    return partner
