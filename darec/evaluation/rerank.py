"""The base class of rerankers, which reorder the candidates of each user in evaluation and in a release.

Candidates are the items with the largest inner product. A new reranker is one configuration class in `schemas.rerank`
and one file in this folder, whose class is registered and imported in `darec.evaluation.rerankers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from darec.common.registry import Registry

_BLOCK = 256  # number of users at once, which limits the memory for their candidates


class Reranker(ABC):
    """Base class of all rerankers."""

    def __init__(self, config: Any, vectors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.vectors = dict(vectors)
        """The vectors of items named in `config.vectors`, [n_items, d] each, which are stored in a release."""

    @abstractmethod
    def order(self, items: Tensor, scores: Tensor, k: int) -> Tensor:
        """Chooses k of each user's C candidates.

        Args:
            items: item numbers, best first, int64 [b, C].
            scores: their scores, float32 [b, C]; -inf if there is no candidate: such positions are chosen last.
            k: length of a list, at most C.

        Returns:
            Distinct positions among the candidates, best first, int64 [b, k].
        """

    @torch.no_grad()
    def rerank(self, items: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first k items of each list in the new order, with the unchanged scores of the model.

        Args:
            items: as in `order`, int64 [b, n]; the first `config.candidates` are reordered.
            scores: float32 [b, n].
            k: length of a list, at most n.

        Returns:
            Item numbers int64 [b, k], and scores float32 [b, k].
        """
        head = min(self.config.candidates, items.shape[1])
        blocks = zip(items[:, :head].split(_BLOCK), scores[:, :head].split(_BLOCK), strict=True)
        order = torch.cat([self.order(*block, min(k, head)) for block in blocks])
        unchanged = torch.arange(head, max(k, head), device=items.device).expand(len(items), -1)
        places = torch.cat([order, unchanged], 1)
        return items.gather(1, places), scores.gather(1, places)

    def of(self, items: Tensor) -> Self:
        """The same reranker for these items only (int64 [n]), numbered by their position in `items`."""
        return type(self)(self.config, {name: rows[items] for name, rows in self.vectors.items()})

    def to(self, device: torch.device) -> Self:
        """The same reranker on `device`."""
        return type(self)(self.config, {name: rows.to(device) for name, rows in self.vectors.items()})


RERANKERS: Registry[Reranker] = Registry("reranker")
