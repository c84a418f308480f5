"""Interactions as index arrays, and the tensors that backbones, objectives and evaluation share.

Users and items are *nodes*: user u is node u, item i is node n_users + i. A matrix of node rows holds users first.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from darec.common.column_split import UNSPLIT, ColumnSplit
from schemas import columns as c


@dataclass(frozen=True)
class Pairs:
    """Interactions as two int64 index arrays of equal length, on the CPU or a device."""

    users: Tensor
    items: Tensor

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray) -> "Pairs":
        """Makes pairs from two integer arrays of equal length."""
        return cls(*(torch.from_numpy(np.array(side, dtype=np.int64)) for side in (users, items)))

    @classmethod
    def of_table(cls, table: pl.DataFrame) -> "Pairs":
        """Makes pairs from a table with the columns `user_index` and `item_index`."""
        return cls.of(table[c.USER_INDEX].to_numpy(), table[c.ITEM_INDEX].to_numpy())

    def __len__(self) -> int:
        return len(self.users)

    def to(self, device: torch.device) -> "Pairs":
        """The same pairs on `device`."""
        return Pairs(self.users.to(device), self.items.to(device))

    def joined(self, other: "Pairs") -> "Pairs":
        """These pairs, then those of `other`."""
        return Pairs(torch.cat([self.users, other.users]), torch.cat([self.items, other.items]))

    def keys(self, n_items: int) -> Tensor:
        """The distinct pairs as sorted int64 numbers: user * n_items + item."""
        keys = self.users * n_items + self.items
        if keys.device.type != "cpu":
            return torch.unique(keys)
        keys.numpy().sort()  # in a third of the time of PyTorch
        return torch.unique_consecutive(keys)


class ItemLists:
    """The items of each user, in one array (compressed sparse rows)."""

    def __init__(self, pairs: Pairs, n_users: int, n_items: int) -> None:
        keys = pairs.keys(n_items)
        self._n_items, self._items = n_items, keys % n_items
        self._starts = torch.zeros(n_users + 1, dtype=torch.int64, device=keys.device)
        self._starts[1:] = torch.cumsum(torch.bincount(keys // n_items, minlength=n_users), 0)

    @property
    def lengths(self) -> Tensor:
        """How many distinct items each user has, int64 [n_users]."""
        return self._starts.diff()

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Returns all items of each of `users` (int64 [b]) as (positions in `users`, items), both int64 [total]."""
        counts = self._starts[users + 1] - self._starts[users]
        rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        first = torch.repeat_interleave(self._starts[users] - (counts.cumsum(0) - counts), counts)
        return rows, self._items[first + torch.arange(len(rows), device=users.device)]

    def draw(self, users: Tensor) -> Tensor:
        """One item of each of `users`, uniform over the user's items, of which there must be some: int64 [b]."""
        lengths = self.lengths[users]
        place = (torch.rand(users.shape, device=users.device, dtype=torch.float64) * lengths).long()
        return self._items[(self._starts[users] + place).clamp_max(len(self._items) - 1)]

    def draw_other(self, users: Tensor) -> Tensor:
        """One item for each of `users`, uniform over the items that the user does not have: int64 [b] -> int64 [b].

        Without rejection: the number r among a user's other items is item r + j, where j of the user's items have at
        most r others before them.
        """
        others = self._n_items - self.lengths[users]
        rank = (torch.rand(users.shape, device=users.device, dtype=torch.float64) * others).long()
        before = torch.searchsorted(self._others_before, users * (self._n_items + 1) + rank, right=True)
        return rank + before - self._starts[users]

    @cached_property
    def _others_before(self) -> Tensor:
        """For each item of a user, the number of smaller items that the user does not have; ascending by user, then by
        this number.
        """
        users = torch.repeat_interleave(torch.arange(len(self._starts) - 1, device=self._items.device), self.lengths)
        place = torch.arange(len(self._items), device=self._items.device) - self._starts[users]
        return users * (self._n_items + 1) + self._items - place


@dataclass(frozen=True)
class Interactions:
    """The three parts of a split over a vocabulary of `n_users` users and `n_items` items."""

    n_users: int
    n_items: int
    train: Pairs
    val: Pairs
    test: Pairs
    dislikes: Pairs | None = None
    """Pairs that training treats as dislikes; None if there are none or it does not use them."""

    @property
    def n_nodes(self) -> int:
        """Number of users and items together."""
        return self.n_users + self.n_items

    def to(self, device: torch.device) -> "Interactions":
        """The same interactions on `device`."""
        train, val, test = (part.to(device) for part in (self.train, self.val, self.test))
        dislikes = self.dislikes.to(device) if self.dislikes else None
        return Interactions(self.n_users, self.n_items, train, val, test, dislikes)


@dataclass(frozen=True)
class Representations:
    """One row per node, [n_users + n_items, d]: final representations of a backbone, or text vectors."""

    nodes: Tensor
    n_users: int
    split: ColumnSplit = UNSPLIT
    """The columns that this process holds, if several processes share them."""

    @classmethod
    def join(cls, user: Tensor, item: Tensor) -> "Representations":
        """Joins the rows of users [n_users, d] and of items [n_items, d]."""
        return cls(torch.cat([user, item]).float(), len(user))

    @property
    def user(self) -> Tensor:
        """[n_users, d], a view."""
        return self.nodes[: self.n_users]

    @property
    def item(self) -> Tensor:
        """[n_items, d], a view."""
        return self.nodes[self.n_users :]

    @property
    def dim(self) -> int:
        """Dimension of a row."""
        return self.nodes.shape[1]

    def to(self, device: torch.device) -> "Representations":
        """The same rows on `device`."""
        return Representations(self.nodes.to(device), self.n_users, self.split)


@dataclass(frozen=True)
class Batch:
    """B train pairs and one negative item each: int64 [B]; items are item numbers, not node numbers."""

    users: Tensor
    items: Tensor
    negatives: Tensor

    def nodes(self, n_users: int) -> Tensor:
        """Node numbers of users, positives and negatives, int64 [3 B]."""
        return torch.cat([self.users, self.items + n_users, self.negatives + n_users])
