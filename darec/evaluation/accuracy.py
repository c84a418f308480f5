"""Accuracy metrics: how many of a user's held-out items are in the list, and at which ranks."""

import torch
from torch import Tensor

from darec.evaluation.metrics import USER_METRICS, Lists, UserMetric


@USER_METRICS.register("recall")
class Recall(UserMetric):
    """Hits in the first k / relevant items."""

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1]."""
        return lists.hits[:, :k].sum(1) / lists.relevant


@USER_METRICS.register("ndcg")
class NDCG(UserMetric):
    """Sum of 1 / log2(rank + 1) over hits, divided by its largest value.

    The discount falls with the rank, so the sum is largest if the first min(k, relevant) ranks are all hits: it is then
    the cumulative sum of the discounts at that rank (Järvelin and Kekäläinen, TOIS 2002, with relevance 0 or 1).
    """

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1]."""
        hits = lists.hits[:, :k]
        discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=hits.dtype, device=hits.device))  # [k]
        ideal = discount.cumsum(0)[lists.relevant.long().clamp(max=k) - 1]  # [n]
        return (hits * discount[: hits.shape[1]]).sum(1) / ideal


@USER_METRICS.register("precision")
class Precision(UserMetric):
    """Hits in the first k / k."""

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1]."""
        return lists.hits[:, :k].sum(1) / k


@USER_METRICS.register("mrr")
class ReciprocalRank(UserMetric):
    """1 / rank of the first hit among the first k, or 0."""

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1]."""
        hits = lists.hits[:, :k]
        ranks = torch.arange(1, k + 1, dtype=hits.dtype, device=hits.device)
        return (hits / ranks[: hits.shape[1]]).amax(1)


@USER_METRICS.register("hit")
class Hit(UserMetric):
    """1 if any of the first k is a hit."""

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """0 or 1."""
        return lists.hits[:, :k].amax(1)
