"""The protocol `rlmrec`: who is ranked, what is left out, what counts (Ren et al., WWW 2024).

All items are ranked but the user's train items, in validation and in test alike; users without a held-out item are
skipped; every metric is a mean over users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darec.evaluation.metrics import METRICS
from darec.evaluation.ranking import Ranker
from darec.model.interactions import Pairs, Representations


@dataclass(frozen=True)
class Ranking:
    """The first k items of each user that has held-out items: users int64 [n], top int32 [n, k] item numbers."""

    users: Tensor
    top: Tensor

    def to(self, device: torch.device) -> "Ranking":
        """The same ranking on `device`."""
        return Ranking(self.users.to(device), self.top.to(device))


@dataclass(frozen=True)
class Scores:
    """Metrics of each user: users int64 [n], and float64 [n] for each name such as `recall@20`."""

    users: Tensor
    values: dict[str, Tensor]

    def means(self) -> dict[str, float]:
        """The mean over users of every metric; NaN where there is no user."""
        return {name: float(value.mean()) for name, value in self.values.items()}


def rank(final: Representations, train: Pairs, held_out: Pairs, k: int, batch_users: int = 512) -> Ranking:
    """Ranks all items for every user of `held_out`."""
    ranker = Ranker(final, train)
    users = torch.unique(held_out.users)
    blocks = [ranker.top(block, k).int() for block in users.split(batch_users)]
    return Ranking(users, torch.cat(blocks) if blocks else torch.empty(0, k, dtype=torch.int32))


def score(
    ranking: Ranking, held_out: Pairs, n_items: int, cutoffs: Sequence[int], metrics: Sequence[str] = ()
) -> Scores:
    """Metrics (all unless named) of a ranking against `held_out`; users without a pair in it are left out."""
    keys = held_out.keys(n_items)
    relevant = torch.zeros(
        int(ranking.users.max()) + 1 if len(ranking.users) else 1, dtype=torch.float64, device=keys.device
    )
    owners = keys // n_items
    relevant.index_add_(0, owners, torch.ones_like(owners, dtype=torch.float64))
    counted = relevant[ranking.users] > 0
    users, top = ranking.users[counted], ranking.top[counted]
    found = users[:, None] * n_items + top
    position = torch.searchsorted(keys, found).clamp_max(max(len(keys) - 1, 0))
    hits = (keys[position] == found).double() if len(keys) else torch.zeros_like(found, dtype=torch.float64)
    names = metrics or tuple(METRICS)
    values = {f"{name}@{k}": METRICS[name](hits, relevant[users], k) for name in names for k in cutoffs}
    return Scores(users, values)


def coverage(ranking: Ranking, n_items: int, k: int) -> float:
    """The share of all items that are among somebody's first k."""
    return len(torch.unique(ranking.top[:, :k])) / n_items


def novelty(ranking: Ranking, train: Pairs, n_users: int, n_items: int, k: int) -> float:
    """Mean of -log2(share of users who have the item in train) over all first k (Zhou et al., 2010).

    An item without train interactions counts as if it had one.
    """
    popularity = torch.bincount(train.items, minlength=n_items).double().clamp_min(1) / n_users
    return float(-torch.log2(popularity)[ranking.top[:, :k].long()].mean())


def popularity(train: Pairs, n_users: int, n_items: int) -> Representations:
    """The reference that gives everybody the items with most train interactions, as representations of width 1."""
    counts = torch.bincount(train.items, minlength=n_items).float()
    users = torch.ones(n_users, device=counts.device)
    return Representations(torch.cat([users, counts])[:, None], n_users)
