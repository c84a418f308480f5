"""Item-to-item weights: the weight of an item in a user's history for another item."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from darec.common.interactions import ItemLists, Pairs

_BLOCK_USERS = 1024
_SAMPLE = 500
_MOST_SCORES = 2**27  # scores of a block of users: 512 MB


class ItemWeights(Protocol):
    """A matrix B [n_items, n_items], given by its products. A user's scores are the sum of the rows of B of the user's
    items.

    The diagonal is irrelevant, because it only affects items that a user has, which are not recommended.
    """

    def times(self, right: Tensor) -> Tensor:
        """B Y: [n_items, k] -> [n_items, k]."""
        ...

    def transposed_times(self, right: Tensor) -> Tensor:
        """B' Y: [n_items, k] -> [n_items, k]."""
        ...

    def scores(self, history: Tensor) -> Tensor:
        """H B as a dense tensor [b, n_items]; `history` H is sparse COO [b, n_items]."""
        ...


@dataclass(frozen=True)
class DenseWeights:
    """The whole matrix, float32 [n_items, n_items]."""

    matrix: Tensor

    def times(self, right: Tensor) -> Tensor:
        """B Y."""
        return self.matrix @ right

    def transposed_times(self, right: Tensor) -> Tensor:
        """B' Y."""
        return self.matrix.T @ right

    def scores(self, history: Tensor) -> Tensor:
        """H B."""
        return torch.sparse.mm(history, self.matrix)


@dataclass(frozen=True)
class FactoredWeights:
    """B = L R' + S: L and R are [n_items, r], S is sparse CSR. Memory is proportional to the factors and the entries of
    S.
    """

    left: Tensor
    right: Tensor
    sparse: Tensor
    sparse_transposed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        # A frozen dataclass sets derived fields this way. CSR products are fast from one side only.
        object.__setattr__(self, "sparse_transposed", self.sparse.to_sparse_coo().T.coalesce().to_sparse_csr())

    def times(self, right: Tensor) -> Tensor:
        """B Y."""
        return self.left @ (self.right.T @ right) + self.sparse @ right

    def transposed_times(self, right: Tensor) -> Tensor:
        """B' Y."""
        return self.right @ (self.left.T @ right) + self.sparse_transposed @ right

    def scores(self, history: Tensor) -> Tensor:
        """H B."""
        low_rank = torch.sparse.mm(history, self.left) @ self.right.T
        return low_rank.add_(torch.sparse.mm(history, self.sparse.to_sparse_coo()).to_dense())


@dataclass(frozen=True)
class SumOfWeights:
    """B = first + factor second, given by their products."""

    first: ItemWeights
    second: ItemWeights
    factor: float

    def times(self, right: Tensor) -> Tensor:
        """B Y."""
        return self.first.times(right) + self.factor * self.second.times(right)

    def transposed_times(self, right: Tensor) -> Tensor:
        """B' Y."""
        return self.first.transposed_times(right) + self.factor * self.second.transposed_times(right)

    def scores(self, history: Tensor) -> Tensor:
        """H B."""
        return self.first.scores(history).add_(self.second.scores(history), alpha=self.factor)


def score_deviation(weights: ItemWeights, history: Tensor) -> float:
    """Standard deviation of the scores of all items for at most 500 users, evenly spaced over the rows of `history`."""
    users = torch.arange(0, history.shape[0], -(-history.shape[0] // _SAMPLE), device=history.device)
    return float(weights.scores(history.index_select(0, users)).std(correction=0))


def history_matrix(pairs: Pairs, n_users: int, n_items: int) -> Tensor:
    """X, sparse COO float32 [n_users, n_items]: 1 at each distinct pair."""
    keys = pairs.keys(n_items)
    indices = torch.stack([keys // n_items, keys % n_items])
    ones = torch.ones(len(keys), device=keys.device)
    return torch.sparse_coo_tensor(indices, ones, (n_users, n_items), is_coalesced=True, check_invariants=False)


def top_unseen(train: Pairs, n_users: int, n_items: int, weights: ItemWeights, k: int) -> tuple[Tensor, Tensor]:
    """Each user's k best items without train items, best first: items int64 [n_users, k], scores float32."""
    history, seen = history_matrix(train, n_users, n_items), ItemLists(train, n_users, n_items)
    items, scores = [], []
    block_users = min(_BLOCK_USERS, max(1, _MOST_SCORES // n_items))
    for users in torch.arange(n_users, device=history.device).split(block_users):
        block = weights.scores(history.index_select(0, users))
        block[seen.of(users)] = -torch.inf
        best = block.topk(k)
        items.append(best.indices)
        scores.append(best.values)

    return torch.cat(items), torch.cat(scores)
