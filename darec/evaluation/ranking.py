"""Full ranking in blocks of users, so that memory does not grow with the number of users."""

from collections.abc import Callable
from math import isfinite
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.errors import DarecError
from darec.common.interactions import ItemLists, Representations
from darec.evaluation.rerank import Reranker

_CHUNK = 32  # number of items that are represented by their largest score in the first round
_MOST_SCORES = 2**27  # scores of a block of users: 512 MB


def top_items(scores: Tensor, k: int) -> Tensor:
    """Item numbers of the k largest scores of each row, best first: [b, n] -> int64 [b, min(k, n)].

    The top k are in the k chunks with the largest maxima. Finding those first is exact and several times as fast as one
    `topk` over all items.
    """
    rows, items = scores.shape
    k = min(k, items)
    chunks = -(-items // _CHUNK)
    if chunks <= 2 * k:
        return scores.topk(k).indices
    rest = chunks * _CHUNK - items
    whole = functional.pad(scores, (0, rest), value=-torch.inf) if rest else scores
    chunked = whole.view(rows, chunks, _CHUNK)
    best = chunked.amax(2).topk(k, sorted=False).indices
    candidates = chunked.gather(1, best[:, :, None].expand(-1, -1, _CHUNK)).view(rows, -1)
    found = candidates.topk(k).indices
    return best.gather(1, found // _CHUNK) * _CHUNK + found % _CHUNK


@torch.no_grad()
def largest_score(final: Representations) -> float:
    """An upper bound of all absolute scores: |u . i| <= |u| |i|. Infinite or NaN if a score may be."""
    split = final.split
    norms = final.nodes.norm(dim=1) if split.parts == 1 else split.total(final.nodes.square().sum(1)).sqrt()
    sides = (norms[: final.n_users], norms[final.n_users :])
    return float(torch.stack([side.amax() for side in sides]).prod()) if all(map(len, sides)) else 0.0


def check_finite(final: Representations) -> None:
    """Raises DarecError if a score may not be finite, because a NaN would be ranked first."""
    if not isfinite(largest_score(final)):
        hint = "train again with a lower train.learning_rate"
        raise DarecError("vectors of users or items are not finite", where="evaluation", hint=hint)


class Ranks(Protocol):
    """The interface of rankers."""

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

    def __init__(self, final: Representations, seen: ItemLists, reranker: Reranker | None = None) -> None:
        check_finite(final)
        self.n_items = len(final.item)
        self.reranker = reranker
        self.seen = seen
        self.user = final.user
        self.item = functional.pad(
            final.item, (0, 0, 0, -self.n_items % _CHUNK)
        )  # a multiple of the chunk size, so that scores are not copied
        self.scores = self.item.new_empty(0, len(self.item))

    @torch.no_grad()
    def top(self, users: Tensor, k: int) -> Tensor:
        """Each user's k best items, best first: int64 [b] -> int64 [b, min(k, n_items)]."""
        most = max(1, _MOST_SCORES // len(self.item))
        return torch.cat([self._top(block, k) for block in users.split(most)])

    def _top(self, users: Tensor, k: int) -> Tensor:
        scores = torch.mm(self.user[users], self.item.T, out=self._room(len(users)))
        scores[:, self.n_items :] = -torch.inf
        least = torch.finfo(scores.dtype).min
        scores[self.seen.of(users)] = least  # above the padding, which is not an item
        k = min(k, self.n_items)
        if self.reranker is None:
            return top_items(scores, k)

        items = top_items(scores, min(max(k, self.reranker.config.candidates), self.n_items))
        found = scores.gather(1, items)
        return self.reranker.rerank(items, found.masked_fill(found == least, -torch.inf), k)[0]

    def _room(self, rows: int) -> Tensor:
        """Reuses one buffer for all blocks, because allocating takes longer than filling it."""
        if len(self.scores) < rows:
            self.scores = self.scores.new_empty(rows, len(self.item))
        return self.scores[:rows]
