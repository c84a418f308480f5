"""Ranking with an index, for evaluations in which scoring every item for every user takes too long."""

import numpy as np
import torch
from torch import Tensor

from darec.common.interactions import ItemLists, Representations
from darec.evaluation.ranking import MakeRanker, Ranker, check_finite
from darec.evaluation.rerank import Reranker
from darec.serving.index import Floats, Seen, search
from darec.serving.index_build import build
from schemas.release import ExportConfig
from schemas.training import EvaluateConfig

_MOST_PAIRS = 30_000_000_000  # maximum number of user-item pairs that are ranked exactly, about 80 CPU seconds
_EFFORT = ExportConfig(index="ivf", target_recall=0.99)


def ranker_for(config: EvaluateConfig, n_users: int, n_items: int) -> MakeRanker:
    """Exact ranking, or the index if the recipe or the size of the data requires it."""
    by_index = config.candidates == "index" or (config.candidates == "auto" and n_users * n_items > _MOST_PAIRS)
    return IndexRanker if by_index else Ranker


class IndexRanker:
    """Ranks the items that an IVF index finds for a user, without the user's train items, and then applies the
    reranker.
    """

    def __init__(self, final: Representations, seen: ItemLists, reranker: Reranker | None = None) -> None:
        check_finite(final)
        self.reranker = reranker
        self.user, self.seen, self.device = _floats(final.user), seen, final.nodes.device
        self.index, self.report = build(_floats(final.item), self.user, _EFFORT)

    def top(self, users: Tensor, k: int) -> Tensor:
        """Each user's k best items, best first: int64 [b] -> int64 [b, min(k, n_items)]."""
        rows, items = self.seen.of(users)
        known, k = Seen(rows.cpu().numpy(), items.cpu().numpy()), min(k, self.index.ntotal)
        wanted = min(max(k, self.reranker.config.candidates), self.index.ntotal) if self.reranker else k
        ids, scores = search(self.index, self.user[users.cpu().numpy()], wanted, known)

        # Users who have seen nearly all items get fewer; arbitrary items fill their lists, like seen ones in exact
        # ranking.
        found = torch.from_numpy(np.maximum(ids, 0)).to(self.device)
        if self.reranker is None:
            return found
        return self.reranker.rerank(found, torch.from_numpy(scores).to(self.device), k)[0]


def _floats(rows: Tensor) -> Floats:
    return np.ascontiguousarray(rows.detach().cpu().numpy(), dtype=np.float32)
