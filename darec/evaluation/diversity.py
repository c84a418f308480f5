"""Diversity: how different the items of a list are."""

import torch
from torch import Tensor

from darec.evaluation.metrics import USER_METRICS, Lists, UserMetric

_BLOCK = 512  # users per block, which limits the memory for the vectors of their items


@USER_METRICS.register("diversity")
class IntraListDiversity(UserMetric):
    """1 minus the mean cosine of text vectors over all pairs of items in a list (Ziegler et al., WWW 2005).

    With s the sum of k unit vectors x, |s|^2 = sum_i |x_i|^2 + sum_{i != j} x_i . x_j, and the first sum is k: the
    k (k - 1) cosines of different items add up to |s|^2 - k.
    """

    needs_catalogue = True

    def per_user(self, lists: Lists, k: int) -> Tensor | None:
        """In [0, 2]; a list of one item has diversity 0. None without text vectors."""
        assert lists.catalogue is not None
        vectors = lists.catalogue.item_vectors
        if vectors is None:
            return None
        if k == 1:
            return torch.zeros(len(lists.users), dtype=torch.float64)

        top = lists.top[:, :k]
        k = top.shape[1]
        sums = torch.cat([vectors[block].double().sum(1) for block in top.split(_BLOCK)] or [vectors[:0].double()])
        return 1 - (sums.square().sum(1) - k) / (k * (k - 1))
