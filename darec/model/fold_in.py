"""User vectors from histories alone: a regression from what a user's items are on average to the user's vector.

It is learnt from the users of a trained model, in closed form, so that it gives what training would have given to a
user with such a history.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from darec.model.cold_start import ridge


@dataclass(frozen=True)
class HistoryMap:
    """The map from the mean of a history's item vectors, `m`, to a user vector, `m weights + bias`."""

    weights: Tensor
    """[d, d]."""
    bias: Tensor
    """[d]."""

    @classmethod
    def learn(cls, rows: Tensor, items: Tensor, user: Tensor, item: Tensor) -> "HistoryMap":
        """The map with the least error on users whose vectors are known.

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
