"""Ranking with an index, for evaluations in which scoring every item for every user takes too long."""

import logging

import numpy as np
import torch
from torch import Tensor

from darec.common.interactions import Representations
from darec.evaluation.ranking import MakeRanker, Ranker
from darec.serving.index import FEW_LISTS, Floats, Seen, search
from darec.serving.index_build import build
from schemas.release import ExportConfig
from schemas.training import EvaluateConfig

_MOST_PAIRS = 30_000_000_000  # maximum number of user-item pairs that are ranked exactly, about 40 CPU seconds
_INDEX = ExportConfig(index="auto", flat_up_to=0, target_recall=0.99)
_logger = logging.getLogger(__name__)


def ranker_for(config: EvaluateConfig, n_users: int, n_items: int) -> MakeRanker:
    """Exact ranking, or the index if the recipe or the size of the data requires it."""
    by_index = config.candidates == "index" or (config.candidates == "auto" and n_users * n_items > _MOST_PAIRS)
    return IndexRanker if by_index else Ranker


class IndexRanker(Ranker):
    """Ranks the items that an IVF index finds for a user, or all items if the index would search many lists."""

    def prepare(self, final: Representations) -> None:
        """Builds the index."""
        self._vectors = _floats(final.user)
        self._index, report = build(_floats(final.item), self._vectors, _INDEX, most_lists=FEW_LISTS)
        self._exact = report.kind == "flat"
        if self._exact:
            super().prepare(final)
        told = "every item, as the index needs more lists" if self._exact else f"{report.effort} lists per user"
        _logger.info("ranking %s items: %s", f"{self.n_items:,}", told)

    def find(self, users: Tensor, n: int, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """As in the base class."""
        if self._exact:
            return super().find(users, n, rows, items)
        known = Seen(rows.cpu().numpy(), items.cpu().numpy())
        ids, scores = search(self._index, self._vectors[users.cpu().numpy()], n, known)
        return torch.from_numpy(ids).to(users.device), torch.from_numpy(scores).to(users.device)


def _floats(rows: Tensor) -> Floats:
    return np.ascontiguousarray(rows.detach().cpu().numpy(), dtype=np.float32)
