"""Ranking metrics of each user, as tensors over a block of b users and k ranks.

`hits` [b, k] is 1 where the item at that rank is relevant; `relevant` [b] is how many items are, all above 0.
"""

import torch
from torch import Tensor


def recall(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """hits in the first k / relevant."""
    return hits[:, :k].sum(1) / relevant


def precision(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """hits in the first k / k."""
    return hits[:, :k].sum(1) / k


def ndcg(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """sum of 1 / log2(rank + 1) over hits, divided by its value were the first min(k, relevant) ranks all hits."""
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=hits.dtype, device=hits.device))
    ideal = discount.cumsum(0)[relevant.long().clamp(max=k) - 1]
    return (hits[:, :k] * discount[: hits.shape[1]]).sum(1) / ideal


def mrr(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 / rank of the first hit among the first k, or 0."""
    ranks = torch.arange(1, k + 1, dtype=hits.dtype, device=hits.device)
    return (hits[:, :k] / ranks[: hits.shape[1]]).amax(1)


def hit(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """1 if any of the first k is a hit."""
    return hits[:, :k].amax(1)


METRICS = {"recall": recall, "ndcg": ndcg, "precision": precision, "mrr": mrr, "hit": hit}
