"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

import torch
from torch import Tensor
from torch.nn import functional

from darec.evaluation.rerank import RERANKERS, Reranker
from schemas.rerank import MMRConfig

_LAST = -1e4  # the value of a position without a candidate, below all others


@RERANKERS.register(MMRConfig)
class MMR(Reranker):
    """Fills a list with relevant items that are dissimilar to the previous ones."""

    def order(self, items: Tensor, scores: Tensor, k: int) -> Tensor:
        """Fills one position of all lists at a time, in O(C^2 d) per user."""
        weight = self.config.weight
        vectors = self.vectors[self.config.similarity][items.clamp_min(0)].float()
        unit = functional.normalize(vectors, dim=2)  # [b, C, d]
        cosine = unit @ unit.transpose(1, 2)  # [b, C, C]
        place = torch.arange(items.shape[1], device=items.device)
        value = torch.where(scores > -torch.inf, (1 - weight) * scaled(scores), _LAST - place)

        rows = torch.arange(len(items), device=items.device)
        chosen = value.argmax(1)  # the list is empty: choose the most relevant candidate
        nearest = cosine[rows, chosen]  # largest cosine of each candidate to an item of the list, [b, C]
        places = [chosen]
        for _ in range(1, k):
            value[rows, chosen] = -torch.inf
            chosen = (value - weight * nearest).argmax(1)
            nearest = torch.maximum(nearest, cosine[rows, chosen])
            places.append(chosen)

        return torch.stack(places, 1)

    @torch.no_grad()
    def diversity(self, items: Tensor) -> Tensor:
        """1 minus the mean cosine over all pairs of items in each list, int64 [b, k] -> float32 [b]; -1 is no item.

        With s the sum of n unit vectors, the n (n - 1) cosines of different items add up to |s|^2 - n. A list of fewer
        than two items has the maximum diversity, 2.
        """
        there = items >= 0
        vectors = self.vectors[self.config.similarity][items.clamp_min(0)].float()
        total = (functional.normalize(vectors, dim=2) * there[:, :, None]).sum(1)
        n = there.sum(1)
        value = 1 - (total.square().sum(1) - n) / (n * (n - 1)).clamp_min(1)
        return torch.where(n > 1, value, 2.0)


def scaled(scores: Tensor) -> Tensor:
    """Each row's finite scores scaled to [0, 1], float32 [b, C]; zeros where all are equal."""
    finite = scores > -torch.inf
    least = scores.masked_fill(~finite, torch.inf).amin(1, keepdim=True)
    most = scores.amax(1, keepdim=True)
    return (scores - least) / (most - least).clamp_min(torch.finfo(scores.dtype).tiny)
