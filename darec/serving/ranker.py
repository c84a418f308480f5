"""Ranking in a release: candidates by inner product, then the reranker, then the rules, until each list has K items."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from darec.common.errors import UserError
from darec.serving import index
from darec.serving.bundle import Bundle
from darec.serving.index import Floats, Ints, Seen
from darec.serving.rules import Rules
from schemas import columns as c

if TYPE_CHECKING:
    from darec.evaluation.mmr import MMR
    from darec.evaluation.rerank import Reranker

Candidates = Callable[[Ints, int, Seen], tuple[Ints, Floats]]
"""Takes query numbers [b], n, and the seen items of each query. Returns the n best items that the rules allow, best
first, and their scores, both [b, n]; -1 and -inf after the last.
"""

_MORE = 4  # factor for the number of candidates when a list is too short
_WEIGHTS = 10  # number of steps in which the weight of diversity is increased


@dataclass(frozen=True)
class Ranker:
    """Makes lists from candidates: for one user, for many users, and for all users."""

    n_items: int
    reranker: "Reranker | None"
    rules: Rules
    stronger: "tuple[MMR, ...]" = ()
    """Rerankers with increasing weight of diversity, for lists below the minimum."""

    @classmethod
    def of(cls, bundle: Bundle, rules: Rules) -> Self:
        """The ranker of a release under `rules`."""
        stronger = _stronger(bundle) if rules.min_diversity else ()
        return cls(bundle.items.height, bundle.reranker, rules, stronger)

    def top(
        self, find: Candidates, queries: int, k: int, seen: Seen, new: Candidates | None = None
    ) -> tuple[Ints, Floats]:
        """The lists of `queries` queries: item numbers and scores [queries, min(k, n_items)]; -1 and -inf at the end of
        a list that has fewer because no more items are left. `new` finds the items for the positions of new items.
        """
        k = min(k, self.n_items)
        ids, scores = self._lists(find, np.arange(queries), k, seen, self.reranker)
        kept = int(self.rules.new_share * k + 1e-9)
        if new is not None and self.rules.new is not None and kept:
            return with_new(ids, scores, *new(np.arange(queries), kept, seen), self.rules.new)

        for reranker in self.stronger:
            monotonous = np.flatnonzero(_diversity(reranker, ids) < self.rules.min_diversity)
            if not len(monotonous):
                break
            ids[monotonous], scores[monotonous] = self._lists(find, monotonous, k, seen.of(monotonous), reranker)

        return ids, scores

    def _lists(
        self, find: Candidates, queries: Ints, k: int, seen: Seen, reranker: "Reranker | None"
    ) -> tuple[Ints, Floats]:
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        limits = self.rules.limits
        fetch = max(k if limits is None else _MORE * k, reranker.config.candidates if reranker else 0)
        rows = np.arange(len(queries))

        while len(rows):
            fetch = min(fetch, self.n_items)
            found, values = find(queries[rows], fetch, seen.of(rows))
            more = found[:, -1] >= 0  # whether there may be more candidates
            if reranker is not None:
                found, values = _reranked(reranker, found, values, fetch if limits else k)
            if limits is None:  # lists are then short only if no candidate is left
                return found[:, :k], values[:, :k]
            ids[rows], scores[rows] = index.left_aligned(found, values, limits.kept(found), k)
            rows = rows[(ids[rows, -1] < 0) & more & (fetch < self.n_items)]
            fetch *= _MORE

        return ids, scores


def with_new(
    ids: Ints, scores: Floats, new_ids: Ints, new_scores: Floats, is_new: NDArray[np.bool_]
) -> tuple[Ints, Floats]:
    """Lists in which at least m of the k items are new.

    In a list with fewer new items, the last other items are replaced. The added items get evenly spaced positions, the
    best one the first of these.

    Args:
        ids: lists of items [b, k], best first; -1 after the last.
        scores: their scores.
        new_ids: the best new items of each list [b, m], best first; -1 after the last.
        new_scores: their scores.
        is_new: bool [n_items].
    """
    k, most = ids.shape[1], new_ids.shape[1]
    there = is_new[ids] & (ids >= 0)
    fresh = (new_ids >= 0) & ~(new_ids[:, :, None] == ids[:, None, :]).any(2)
    added = fresh & (fresh.cumsum(1) <= most - there.sum(1, keepdims=True))
    short = added.sum(1, keepdims=True)

    # As many of the last other positions as items are added are dropped, empty ones first.
    other = ~there
    from_end = other[:, ::-1].cumsum(1)[:, ::-1]
    stays = there | (from_end > short)
    # Of m evenly spaced positions the last ones are used, so that a single item is at the end.
    taken = np.zeros_like(stays)
    places = (np.arange(1, most + 1) * k) // most - 1
    taken[:, places] = np.arange(most, 0, -1) <= short

    result, values = np.empty_like(ids), np.empty_like(scores)
    result[taken], values[taken] = new_ids[added], new_scores[added]
    result[~taken], values[~taken] = ids[stays], scores[stays]
    return result, values


def by_index(bundle: Bundle, vectors: Floats, allowed: NDArray[np.bool_] | None) -> Candidates:
    """Candidates from the release's index, for the users of `vectors` [b, width]."""
    return lambda queries, n, seen: index.search(bundle.item_index, vectors[queries], n, seen, allowed)


def by_popularity(bundle: Bundle, allowed: NDArray[np.bool_] | None) -> Candidates:
    """The items with the most train interactions, ties by item number; the count is the score."""
    counts = bundle.items[c.TRAIN_COUNT].to_numpy()
    best = np.argsort(-counts, kind="stable")
    best = best if allowed is None else best[allowed[best]]

    def find(queries: Ints, n: int, seen: Seen) -> tuple[Ints, Floats]:
        most = n + int(seen.counts(len(queries)).max(initial=0))
        ids = np.broadcast_to(best[:most], (len(queries), min(most, len(best))))
        return index.without_seen(counts[ids].astype(np.float32), ids, n, seen)

    return find


def _reranked(reranker: "Reranker", ids: Ints, scores: Floats, k: int) -> tuple[Ints, Floats]:
    import torch

    best, values = reranker.rerank(torch.from_numpy(ids), torch.from_numpy(scores), k)
    return best.numpy(), values.numpy()


def _diversity(reranker: "MMR", ids: Ints) -> NDArray[np.float32]:
    import torch

    return reranker.diversity(torch.from_numpy(ids)).numpy()


def _stronger(bundle: Bundle) -> "tuple[MMR, ...]":
    """MMR with the vectors of the release's reranker, or with the item vectors if it has none."""
    import torch

    from darec.evaluation.mmr import MMR
    from schemas.rerank import MMRConfig

    own = bundle.reranker
    if own is not None and not isinstance(own, MMR):
        hint = "omit the rule, or release with the reranker mmr"
        raise UserError(
            f"the reranker {own.config.name} does not support diversity", where="rules.min_diversity", hint=hint
        )

    if own is None:
        trained = torch.tensor(bundle.all_item_vectors())
        own = MMR(MMRConfig(weight=0, similarity="interactions"), {"interactions": trained})

    weights = np.linspace(own.config.weight, 1, _WEIGHTS + 1).tolist()[1:]
    return tuple(MMR(own.config.model_copy(update={"weight": weight}), own.vectors) for weight in weights)
