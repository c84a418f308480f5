"""Batches of train pairs with negatives, vectorised."""

from collections.abc import Iterator
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, ItemLists

_LOOKED_UP = 2**22  # number of pairs per look-up, which takes 32 bytes per pair


class Sampler:
    """Draws batches from torch's global generator; a negative is never one of the user's train items.

    Args:
        interactions: the pairs and dislikes to sample.
        batch_size: train pairs in a batch.
        dislikes: the role of `interactions.dislikes` (`TrainConfig.dislikes`).
        dislike_share: for `prefer`, the fraction of negatives that are dislikes, for users who have some.
        fixed: all batches have the same size, and nothing synchronises with the device. The draws differ but have the
            same distribution. The last batch of an epoch is filled up with pairs of its first.
    """

    def __init__(
        self,
        interactions: Interactions,
        batch_size: int,
        dislikes: Literal["ignore", "avoid", "prefer"] = "ignore",
        dislike_share: float = 0.0,
        *,
        fixed: bool = False,
    ) -> None:
        self.train, self.n_items, self.batch_size = interactions.train, interactions.n_items, batch_size
        size = (interactions.n_users, interactions.n_items)
        disliked = interactions.dislikes if interactions.dislikes and len(interactions.dislikes) else None
        excluded = self.train.joined(disliked) if disliked and dislikes == "avoid" else self.train
        self.lists, self.keys = ItemLists(excluded, *size), excluded.keys(self.n_items)
        self._train_lists = self.lists if excluded is self.train else ItemLists(self.train, *size)
        self.disliked = ItemLists(disliked, *size) if disliked and dislikes == "prefer" else None
        self.dislike_share, self.fixed = dislike_share, fixed

        busiest = int(torch.bincount(self.keys // self.n_items).max()) if len(self.keys) else 0
        if not 0 < busiest < self.n_items:
            hint = "check the split" if busiest == 0 else "leave out users who have every item"
            raise UserError(
                f"no negative can be drawn: a user has {busiest} of {self.n_items} items", where="train", hint=hint
            )

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return ceil(len(self.train) / self.batch_size)

    def epoch(self) -> Iterator[Batch]:
        """All train pairs once in random order, each with one new negative."""
        order = torch.randperm(len(self.train), device=self.train.users.device)
        if self.fixed:
            order = order.repeat(-(-len(self) * self.batch_size // len(order)))[: len(self) * self.batch_size]
        users = self.train.users[order]
        parts = (users, self.train.items[order], self.negatives(users))
        del order, users
        for users, items, others in zip(*(part.split(self.batch_size) for part in parts), strict=True):
            yield Batch(users, items, others)

    def negatives(self, users: Tensor) -> Tensor:
        """One item per user that is not among the user's train items: int64 [n] -> int64 [n].

        It is uniform over these items, or with `prefer`, for a fraction of the draws, uniform over the user's dislikes.
        """
        drawn = self.lists.draw_other(users) if self.fixed else self._drawn_again(users)
        if self.disliked is None:
            return drawn

        from_dislikes = torch.rand(users.shape, device=users.device) < self.dislike_share
        from_dislikes &= self.disliked.lengths[users] > 0
        if self.fixed:
            return torch.where(from_dislikes, self.disliked.draw(users), drawn)
        drawn[from_dislikes] = self.disliked.draw(users[from_dislikes])
        return drawn

    def _drawn_again(self, users: Tensor) -> Tensor:
        """Draws items by rejection until none of them is an item of the user."""
        drawn = torch.randint(self.n_items, users.shape, device=users.device)
        again = self.seen(users, drawn).nonzero().squeeze(1)
        while len(again):
            drawn[again] = torch.randint(self.n_items, again.shape, device=users.device)
            again = again[self.seen(users[again], drawn[again])]
        return drawn

    def positives(self, users: Tensor) -> Tensor:
        """One of the user's train items for each of `users`: int64 [n] -> int64 [n]."""
        return self._train_lists.draw(users)

    def shared_negatives(self, users: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct items for a whole batch, int64 [m], and the (row, column) numbers of items that
        a user has in train.
        """
        drawn = torch.randperm(self.n_items, device=users.device)[:count]
        slot = torch.full((self.n_items,), -1, device=users.device)
        slot[drawn] = torch.arange(len(drawn), device=users.device)
        rows, items = self.lists.of(users)
        slots = slot[items]
        return drawn, rows[slots >= 0], slots[slots >= 0]

    def seen(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each pair is in train, or a dislike that is avoided: int64 [n], int64 [n] -> bool [n]."""
        found = [self._seen(*some) for some in zip(users.split(_LOOKED_UP), items.split(_LOOKED_UP), strict=True)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _seen(self, users: Tensor, items: Tensor) -> Tensor:
        wanted = users * self.n_items + items
        return self.keys[torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)] == wanted
