"""LightGCN in the style of research code, with Python loops over pairs and users.

It follows the scheme of RLMRec's published code (negatives one by one against a set of pairs, one sample at a time
through a DataLoader, a COO product on a freshly dropped edge list, rankings scored user by user), so that it can
represent it in speed comparisons; it does not contain that code. Only for timing.
"""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from darec.common.interactions import Interactions, Pairs

_LAYERS, _KEEP, _L2, _CUTOFFS = 3, 0.8, 1e-6, (5, 10, 20)


class TrainPairs(Dataset[tuple[int, int, int]]):
    """A data set of (user, item, negative); `draw` draws new negatives."""

    def __init__(self, train: Pairs, n_items: int) -> None:
        self.users, self.items, self.n_items = train.users.numpy(), train.items.numpy(), n_items
        self.known = set(zip(self.users.tolist(), self.items.tolist(), strict=True))
        self.negatives = np.zeros(len(self.users), dtype=np.int64)

    def draw(self) -> None:
        """Draws one negative per pair, which the user does not have in train."""
        for row, user in enumerate(self.users):
            negative = np.random.randint(self.n_items)
            while (user, negative) in self.known:
                negative = np.random.randint(self.n_items)
            self.negatives[row] = negative

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, row: int) -> tuple[int, int, int]:
        return self.users[row], self.items[row], self.negatives[row]


class PlainLightGCN:
    """A model with methods for an epoch and an evaluation."""

    def __init__(self, data: Interactions, dim: int, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.embedding = nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_nodes, dim)))
        self.optimizer = torch.optim.Adam([self.embedding], lr=1e-3)
        self.pairs = TrainPairs(data.train, data.n_items)
        rows = torch.cat([data.train.users, data.train.items + data.n_users])
        columns = torch.cat([data.train.items + data.n_users, data.train.users])
        degree = torch.bincount(rows, minlength=data.n_nodes).float()
        self.edges, self.weights = torch.stack([rows, columns]), (degree[rows] * degree[columns]).rsqrt()

    def propagate(self, keep: float) -> tuple[Tensor, Tensor]:
        """Final users and items: the sum over layers."""
        kept = torch.rand(len(self.weights)) < keep
        size = (self.data.n_nodes, self.data.n_nodes)
        matrix = torch.sparse_coo_tensor(self.edges[:, kept], self.weights[kept], size, check_invariants=False)
        layers: list[Tensor] = [self.embedding]
        for _ in range(_LAYERS):
            layers.append(torch.spmm(matrix, layers[-1]))
        nodes = torch.stack(layers).sum(0)
        return nodes[: self.data.n_users], nodes[self.data.n_users :]

    def epoch(self) -> None:
        """Trains on every train pair once."""
        self.pairs.draw()
        for users, items, negatives in DataLoader(self.pairs, batch_size=self.batch_size, shuffle=True):
            user, item = self.propagate(_KEEP)
            gap = (user[users] * (item[negatives] - item[items])).sum(-1)
            loss = functional.softplus(gap).mean() + _L2 * self.embedding.square().sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean Recall@20 on test; NDCG and the other cutoffs are computed too."""
        wanted, known = _lists(self.data.test), _lists(self.data.train)
        user, item = self.propagate(1.0)
        totals: dict[str, float] = defaultdict(float)
        for block in torch.tensor(sorted(wanted)).split(self.batch_size // 4):
            mask = torch.zeros(len(block), self.data.n_items)
            for row, number in enumerate(block.tolist()):
                mask[row, known[number]] = 1
            top = (user[block] @ item.T * (1 - mask) - 1e8 * mask).topk(max(_CUTOFFS)).indices.numpy()
            for row, number in enumerate(block.tolist()):
                _score(top[row], set(wanted[number]), totals)

        return totals["recall@20"] / len(wanted)


def _lists(pairs: Pairs) -> dict[int, list[int]]:
    lists: dict[int, list[int]] = defaultdict(list)
    for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
        lists[user].append(item)
    return lists


def _score(top: np.ndarray, relevant: set[int], totals: dict[str, float]) -> None:
    hits = np.array([item in relevant for item in top], dtype=np.float64)
    for k in _CUTOFFS:
        discount = 1 / np.log2(np.arange(2, k + 2))
        totals[f"recall@{k}"] += hits[:k].sum() / len(relevant)
        totals[f"ndcg@{k}"] += (hits[:k] * discount).sum() / discount[: min(k, len(relevant))].sum()
