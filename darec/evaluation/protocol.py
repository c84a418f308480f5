"""The evaluation protocol `rlmrec` (Ren et al., WWW 2024).

All items except a user's train items are ranked, in validation and in test. Users without held-out items are skipped.
Metrics are means over users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darec.common.interactions import ItemLists, Pairs, Representations
from darec.evaluation.metrics import Catalogue, Lists
from darec.evaluation.ranking import MakeRanker, Ranker
from darec.evaluation.registry import CATALOGUE_METRICS, USER_METRICS
from darec.evaluation.rerank import Reranker


@dataclass(frozen=True)
class Ranking:
    """The first k items of each user that has held-out items: users int64 [n], top int32 [n, k] item numbers."""

    users: Tensor
    top: Tensor

    def to(self, device: torch.device) -> "Ranking":
        """The same ranking on `device`."""
        return Ranking(self.users.to(device), self.top.to(device))

    def of(self, users: Tensor) -> "Ranking":
        """The lists of the users that are among `users`, int64 [m]."""
        chosen = torch.isin(self.users, users)
        return Ranking(self.users[chosen], self.top[chosen])


@dataclass(frozen=True)
class Scores:
    """Metrics of each user: users int64 [n], and float64 [n] for each name such as `recall@20`."""

    users: Tensor
    values: dict[str, Tensor]

    def means(self) -> dict[str, float]:
        """The mean over users of every metric; NaN where there is no user."""
        return {name: float(value.mean()) for name, value in self.values.items()}


def rank(
    final: Representations,
    train: Pairs | ItemLists,
    held_out: Pairs,
    k: int,
    batch_users: int = 512,
    reranker: Reranker | None = None,
    ranker: MakeRanker = Ranker,
) -> Ranking:
    """Ranks items for every user of `held_out`, as a release with these vectors and this reranker does.

    Args:
        final: the representations.
        train: the pairs to exclude, as item lists that several rankings may share.
        held_out: pairs of the users to rank for.
        k: length of the lists.
        batch_users: users ranked at once.
        reranker: reorders the items with the largest inner product.
        ranker: finds these items; by default exactly, among all items.
    """
    seen = ItemLists(train, final.n_users, len(final.item)) if isinstance(train, Pairs) else train
    ranks, users = ranker(final, seen, reranker), torch.unique(held_out.users)

    # An index fetches as many additional items as the users of a block have seen at most, so that users who have seen
    # about the same number of items are ranked together.
    order = seen.lengths[users].argsort(stable=True)
    blocks = [ranks.top(block, k).int() for block in users[order].split(batch_users)]
    return Ranking(users, torch.cat(blocks)[order.argsort()])


def score(
    ranking: Ranking,
    held_out: Pairs,
    n_items: int,
    cutoffs: Sequence[int],
    metrics: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Scores:
    """Metrics of each user of a ranking against `held_out`; users without a pair in it are left out.

    Args:
        ranking: the lists.
        held_out: what counts as relevant.
        n_items: number of items.
        cutoffs: the k of each metric.
        metrics: names of metrics; by default all that can be computed.
        catalogue: data for metrics beyond accuracy; without it only accuracy is computed.
    """
    lists = _lists(ranking, held_out, n_items, catalogue)
    chosen = {name: USER_METRICS.make(name) for name in metrics or USER_METRICS}
    if not metrics and not catalogue:
        chosen = {name: each for name, each in chosen.items() if not each.needs_catalogue}
    measured = {f"{name}@{k}": each.per_user(lists, k) for name, each in chosen.items() for k in cutoffs}
    return Scores(lists.users, {name: value for name, value in measured.items() if value is not None})


def _lists(ranking: Ranking, held_out: Pairs, n_items: int, catalogue: Catalogue | None) -> Lists:
    """The lists of users with held-out items, and their hits."""
    keys = held_out.keys(n_items)
    size = int(ranking.users.max()) + 1 if len(ranking.users) else 1
    relevant = torch.zeros(size, dtype=torch.float64, device=keys.device)
    owners = keys // n_items
    relevant.index_add_(0, owners, torch.ones_like(owners, dtype=torch.float64))
    counted = relevant[ranking.users] > 0
    users, top = ranking.users[counted], ranking.top[counted].long()

    # Pairs are sorted numbers: an item of a list is a hit if its pair is one of them.
    found = users[:, None] * n_items + top
    position = torch.searchsorted(keys, found).clamp_max(max(len(keys) - 1, 0))
    hits = (keys[position] == found).double() if len(keys) else torch.zeros_like(found, dtype=torch.float64)
    return Lists(users, top, hits, relevant[users], catalogue)


def summarise(ranking: Ranking, catalogue: Catalogue, cutoffs: Sequence[int]) -> dict[str, float]:
    """The metrics of all lists together that can be computed."""
    measured = {
        f"{name}@{k}": CATALOGUE_METRICS.make(name).overall(ranking.top[:, :k].long(), catalogue)
        for name in CATALOGUE_METRICS
        for k in cutoffs
    }
    return {name: value for name, value in measured.items() if value is not None}


def popularity(train: Pairs, n_users: int, n_items: int) -> Representations:
    """The baseline that recommends the items with the most train interactions to all users, as representations of width
    1.
    """
    counts = torch.bincount(train.items, minlength=n_items).float()
    users = torch.ones(n_users, device=counts.device)
    return Representations(torch.cat([users, counts])[:, None], n_users)
