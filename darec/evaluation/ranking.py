"""Rankers: they find the best items of many users, fill short lists, and apply the reranker."""

from collections.abc import Callable
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor

from darec.common.errors import DarecError
from darec.common.interactions import ItemLists, Representations
from darec.evaluation.longest_first import LongestFirst
from darec.evaluation.rerank import Reranker
from darec.evaluation.top_items import TopItems


@torch.no_grad()
def largest_score(final: Representations) -> float:
    """An upper bound of all absolute scores: |u . i| <= |u| |i|. Infinite or NaN if a score may be."""
    split = final.split
    norms = final.nodes.norm(dim=1) if split.parts == 1 else split.total(final.nodes.square().sum(1)).sqrt()
    sides = (norms[: final.n_users], norms[final.n_users :])
    return float(torch.stack([side.amax() for side in sides]).prod()) if all(map(len, sides)) else 0.0


class Ranks(Protocol):
    """The interface of rankers."""

    exact: bool
    """Whether the lists have the best of all items."""

    def top(self, users: Tensor, k: int) -> Tensor:
        """Each user's k best items, best first: int64 [b] -> int64 [b, min(k, n_items)]."""
        ...


MakeRanker = Callable[[Representations, ItemLists, Reranker | None], Ranks]
"""Creates a ranker from the representations, each user's train items, which are excluded, and the reranker."""


class Ranker:
    """Ranks all items for users, without each user's train items: by inner product, then by the reranker, if any.

    Raises:
        DarecError: a score may not be finite; NaN would be ranked first.
    """

    exact = True

    def __init__(self, final: Representations, seen: ItemLists, reranker: Reranker | None = None) -> None:
        if not isfinite(largest_score(final)):
            hint = "train again with a lower train.learning_rate"
            raise DarecError("vectors of users or items are not finite", where="evaluation", hint=hint)
        self.user, self.n_items = final.user, len(final.item)
        self.seen, self.reranker = seen, reranker
        self.prepare(final)

    def prepare(self, final: Representations) -> None:
        """Prepares `find` for these items."""
        self._best: TopItems | LongestFirst = TopItems(final.item)

    def find(self, users: Tensor, n: int, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The n best items of each user, and their scores. The pairs of `rows` (of `users`) and `items` are excluded.

        Item numbers int64 [b, n], -1 if no item is left, and scores float32 [b, n], -inf there.
        """
        return self._best.top(self.user[users], n, (rows, items))

    @torch.no_grad()
    def top(self, users: Tensor, k: int) -> Tensor:
        """Each user's k best items, best first: int64 [b] -> int64 [b, min(k, n_items)].

        The lists of users who have seen nearly all items end with seen items.
        """
        rows, items = self.seen.of(users)
        k = min(k, self.n_items)
        wanted = k if self.reranker is None else min(max(k, self.reranker.config.candidates), self.n_items)
        found, scores = self.find(users, wanted, rows, items)

        empty = (found < 0).sum(1)
        if empty.any():
            number = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)  # of a user's items
            taken = number < empty[rows]
            rows, items, number = rows[taken], items[taken], number[taken]
            found[rows, wanted - empty[rows] + number] = items

        return found if self.reranker is None else self.reranker.rerank(found, scores, k)[0]


class MostPopular:
    """Ranks the representations of `protocol.popularity`: the same order for all users, ties by item number."""

    exact = True

    def __init__(self, final: Representations, seen: ItemLists, reranker: Reranker | None = None) -> None:
        assert reranker is None, "the baseline is not reranked"
        self.order = final.item[:, 0].argsort(descending=True, stable=True)
        self.place = self.order.argsort()
        self.seen = seen

    def top(self, users: Tensor, k: int) -> Tensor:
        """As `Ranker.top`."""
        k = min(k, len(self.order))
        return self._top(users, k, min(2 * k, len(self.order)))

    def _top(self, users: Tensor, k: int, head: int) -> Tensor:
        """Searches the first `head` items of the order, and more of them for users who have seen too many of these."""
        rows, items = self.seen.of(users)
        places = self.place[items]
        inside = places < head
        unseen = torch.ones(len(users), head, dtype=torch.bool, device=users.device)
        unseen[rows[inside], places[inside]] = False
        if head == len(self.order):
            return self.order[(~unseen).byte().argsort(dim=1, stable=True)[:, :k]]  # seen ones at the end

        number = unseen.cumsum(1)
        enough = number[:, -1] >= k
        top = users.new_empty(len(users), k)
        top[enough] = self.order[(unseen & (number <= k))[enough].nonzero()[:, 1].view(-1, k)]
        if not enough.all():
            top[~enough] = self._top(users[~enough], k, min(4 * head, len(self.order)))
        return top
