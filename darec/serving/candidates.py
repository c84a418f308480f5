"""Ranking with an index, for evaluations in which scoring every item for every user takes too long."""

import logging
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from darec.common.interactions import Representations
from darec.evaluation.longest_first import LongestFirst
from darec.evaluation.ranking import MakeRanker, Ranker
from darec.serving.index import FEW_LISTS, Floats, Seen, search
from darec.serving.index_build import build
from schemas.release import ExportConfig
from schemas.training import EvaluateConfig

_MOST_PAIRS = 30_000_000_000  # maximum number of user-item pairs that are always ranked exactly, about 40 CPU seconds
_MOST_SCORED = 32  # maximum number of items that are scored for a user, in roots of the number of items
_SAMPLE, _K = 512, 20  # number of users for which the scored items are counted, and length of their lists
_INDEX = ExportConfig(index="auto", flat_up_to=0, target_recall=0.99)
_logger = logging.getLogger(__name__)


def ranker_for(config: EvaluateConfig, n_users: int, n_items: int) -> MakeRanker:
    """Exact ranking, or the index if the recipe or the data requires it."""
    if config.candidates == "index":
        return IndexRanker
    return LargeRanker if config.candidates == "auto" and n_users * n_items > _MOST_PAIRS else Ranker


class IndexRanker(Ranker):
    """Ranks the items that an IVF index finds for a user, or all items if the index would search many lists."""

    def prepare(self, final: Representations) -> None:
        """Builds the index."""
        self._vectors = _floats(final.user)
        self._index, report = build(_floats(final.item), self._vectors, _INDEX, most_lists=FEW_LISTS)
        self.exact = report.kind == "flat"
        if self.exact:
            super().prepare(final)
        told = "every item, as the index needs more lists" if self.exact else f"{report.effort} lists per user"
        _logger.info("ranking %s items: %s", f"{self.n_items:,}", told)

    def find(self, users: Tensor, n: int, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """As in the base class."""
        if self.exact:
            return super().find(users, n, rows, items)
        known = Seen(rows.cpu().numpy(), items.cpu().numpy())
        ids, scores = search(self._index, self._vectors[users.cpu().numpy()], n, known)
        return torch.from_numpy(ids).to(users.device), torch.from_numpy(scores).to(users.device)


class LargeRanker(IndexRanker):
    """Ranks exactly where few items have to be scored for a user (see `LongestFirst`), and with the index otherwise.

    An index of n items compares a user with some 8 root(n) centroids and items, and takes several times as long for
    each of them as a product.
    """

    def prepare(self, final: Representations) -> None:
        """Counts the items that are scored for a sample of users, and builds the index if they are many."""
        best = LongestFirst(final.item)
        sample = torch.arange(0, len(final.user), -(-len(final.user) // _SAMPLE), device=final.nodes.device)
        users = final.user[sample]
        scored = best.scored(users, best.top(users, _K, self.seen.of(sample))[1][:, -1])
        self.exact = scored <= _MOST_SCORED * sqrt(self.n_items)
        if self.exact:
            self._best = best
            _logger.info("ranking %s items: scoring the %s longest", f"{self.n_items:,}", f"{scored:,.0f}")
        else:
            super().prepare(final)


def _floats(rows: Tensor) -> Floats:
    return np.ascontiguousarray(rows.detach().cpu().numpy(), dtype=np.float32)
