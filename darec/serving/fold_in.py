"""User vectors from histories: a regression on the mean of the item vectors of a history.

It is fitted in closed form to the users of the release, so that it predicts the vector that training would give to such
a history: of all maps m W + b of the mean m of a history's items, it has the smallest mean squared error plus a penalty
on W (derived in `darec.common.regression`). The mean, unlike the sum, does not grow with the length of a history.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from darec.common.regression import ridge
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.index import Floats, Ints
from schemas import columns as c

_MOST_USERS = 100_000  # maximum number of evenly spaced users for fitting a map of a few dozen dimensions


@dataclass(frozen=True)
class HistoryMap:
    """The map from the mean of a history's item vectors, `m`, to a user vector, `m weights + bias`."""

    weights: Tensor
    """[d, d]."""
    bias: Tensor
    """[d]."""

    @classmethod
    def learn(cls, rows: Tensor, items: Tensor, user: Tensor, item: Tensor) -> "HistoryMap":
        """The map with the smallest error on users whose vectors are known.

        Args:
            rows: int64 [m], which row of `user` each of the items belongs to; every row has at least one.
            items: int64 [m], rows of `item`.
            user: [n, d], the vectors of these users.
            item: [n_items, d].
        """
        return cls(*ridge(mean_items(rows, items, item, len(user)), user))

    def vectors(self, rows: Tensor, items: Tensor, item: Tensor, n_users: int) -> Tensor:
        """[n_users, d]: the vector of each history, given as in `learn`."""
        return mean_items(rows, items, item, n_users) @ self.weights + self.bias


def mean_items(rows: Tensor, items: Tensor, item: Tensor, n_users: int) -> Tensor:
    """The mean vector of each user's items, [n_users, d]; zero for a user without any."""
    totals = torch.zeros(n_users, item.shape[1], dtype=item.dtype, device=item.device)
    totals.index_add_(0, rows, item[items])
    return totals / torch.bincount(rows, minlength=n_users).clamp_min(1)[:, None]


def fold_in(bundle: Bundle, rows: Ints, items: Ints, histories: int) -> Floats:
    """User vectors from histories alone, [histories, width].

    Args:
        bundle: A release.
        rows: int64 [m], the history that each item belongs to.
        items: int64 [m], item indices.
        histories: How many there are. An empty history gets the map's value for a zero mean.
    """
    item = torch.tensor(bundle.all_item_vectors())
    folded = bundle.fold_in.vectors(torch.tensor(rows), torch.tensor(items), item, histories)
    return np.ascontiguousarray(folded.numpy())


def learn(bundle: Bundle) -> HistoryMap:
    """The map from histories to vectors, fitted to the users of the release. A bundle caches it as `fold_in`."""
    users = bundle.trained_users(_MOST_USERS)
    numbers = pl.DataFrame({c.USER_INDEX: users[c.USER_INDEX].cast(pl.Int32)}).with_row_index("row")
    known = bundle.liked(users[c.USER_INDEX].to_list()).join(numbers, on=c.USER_INDEX)
    rows, items = (known[name].cast(pl.Int64).to_torch() for name in ("row", c.ITEM_INDEX))
    return HistoryMap.learn(rows, items, torch.tensor(vectors_of(users)), torch.tensor(bundle.all_item_vectors()))
