"""The evaluation protocol `rlmrec` (Ren et al., WWW 2024).

All items except a user's train items are ranked, in validation and in test. Users without held-out items are skipped.
Metrics are means over users.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from darec.common.interactions import ItemLists, Pairs, Representations
from darec.evaluation.metrics import Catalogue, Lists, UserMetric
from darec.evaluation.ranking import MakeRanker, Ranker
from darec.evaluation.registry import CATALOGUE_METRICS, USER_METRICS
from darec.evaluation.rerank import Reranker

_BATCH_USERS = 4096  # in smaller batches, few users would be left at the last tiles of `LongestFirst`
_BLOCK = 65_536  # number of lists that are compared with the held-out pairs and measured at once


@dataclass(frozen=True)
class Ranking:
    """The first k items of each user that has held-out items: users int64 [n], top int32 [n, k] item numbers."""

    users: Tensor
    top: Tensor
    exact: bool = True
    """Whether these are the best of all items."""

    def to(self, device: torch.device) -> "Ranking":
        """The same ranking on `device`."""
        return replace(self, users=self.users.to(device), top=self.top.to(device))

    def of(self, users: Tensor) -> "Ranking":
        """The lists of the users that are among `users`, int64 [m]."""
        chosen = torch.isin(self.users, users)
        return replace(self, users=self.users[chosen], top=self.top[chosen])


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
    batch_users: int | Literal["auto"] = "auto",
    reranker: Reranker | None = None,
    ranker: MakeRanker = Ranker,
) -> Ranking:
    """Ranks items for every user of `held_out`, as a release with these vectors and this reranker does.

    Args:
        final: the representations.
        train: the pairs to exclude, as item lists that several rankings may share.
        held_out: pairs of the users to rank for.
        k: length of the lists.
        batch_users: users ranked at once; auto: as many as suit the device.
        reranker: reorders the items with the largest inner product.
        ranker: finds these items; by default exactly, among all items.
    """
    seen = ItemLists(train, final.n_users, len(final.item)) if isinstance(train, Pairs) else train
    ranks, users = ranker(final, seen, reranker), torch.unique(held_out.users)

    # An index fetches as many additional items as the users of a block have seen at most, so that users who have seen
    # about the same number of items are ranked together.
    if batch_users == "auto":
        batch_users = _BATCH_USERS
    order = seen.lengths[users].argsort(stable=True)
    blocks = [ranks.top(block, k).int() for block in users[order].split(batch_users)]
    return Ranking(users, torch.cat(blocks)[order.argsort()], ranks.exact)


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
    return Matches(ranking, held_out, n_items).score(cutoffs, metrics, catalogue)


class Matches:
    """The entries of lists that are held-out pairs: found once, for all metrics and slices of a ranking."""

    def __init__(self, ranking: Ranking, held_out: Pairs, n_items: int) -> None:
        keys = held_out.keys(n_items)
        self.ranking, self.pairs = ranking, Pairs(keys // n_items, keys % n_items)  # distinct, in ascending order

        # Pairs are sorted numbers: an entry of a list matches if its pair is one of them.
        found = [torch.empty(0, 3, dtype=torch.int64, device=keys.device)]
        for start in range(0, len(ranking.users) if len(keys) else 0, _BLOCK):
            part = slice(start, start + _BLOCK)
            wanted = ranking.users[part, None] * n_items + ranking.top[part]
            position = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
            row, rank = (keys[position] == wanted).nonzero(as_tuple=True)
            found.append(torch.stack([row + start, rank, position[row, rank]], 1))
        self._row, self._rank, self._pair = torch.cat(found).unbind(1)

    def score(
        self,
        cutoffs: Sequence[int],
        metrics: Sequence[str] = (),
        catalogue: Catalogue | None = None,
        relevant: Tensor | None = None,
    ) -> Scores:
        """As the function `score`, with the pairs for which `relevant` is true, bool [len(pairs)]; None for all."""
        chosen = {name: USER_METRICS.make(name) for name in metrics or USER_METRICS}
        if not metrics and not catalogue:
            chosen = {name: each for name, each in chosen.items() if not each.needs_catalogue}
        if relevant is None:
            relevant = torch.ones_like(self.pairs.users, dtype=torch.bool)

        size = int(self.ranking.users.max()) + 1 if len(self.ranking.users) else 1
        counts = torch.bincount(self.pairs.users[relevant], minlength=size).double()
        counted = counts[self.ranking.users] > 0
        users, top = self.ranking.users[counted], self.ranking.top[counted]
        inside = relevant[self._pair]
        row, rank = (counted.cumsum(0) - 1)[self._row[inside]], self._rank[inside]

        # In blocks, whose numbers stay in the cache of a CPU.
        values: dict[str, list[Tensor]] = {f"{name}@{k}": [] for name in chosen for k in cutoffs}
        for start in range(0, max(len(users), 1), _BLOCK):
            part = slice(start, start + _BLOCK)
            inside = slice(*torch.searchsorted(row, torch.tensor([start, start + _BLOCK], device=row.device)).tolist())
            marks = row[inside] - start, rank[inside]
            for name, value in _values(chosen, cutoffs, users[part], top[part], marks, counts, catalogue):
                values[name].append(value)
        return Scores(users, {name: torch.cat(parts) for name, parts in values.items() if parts})


def _values(
    chosen: Mapping[str, UserMetric],
    cutoffs: Sequence[int],
    users: Tensor,
    top: Tensor,
    marks: tuple[Tensor, Tensor],
    counts: Tensor,
    catalogue: Catalogue | None,
) -> Iterator[tuple[str, Tensor]]:
    """The metrics of some users, for which the data suffices; `marks` are the rows and ranks of hits."""
    row, rank = marks
    whole = Lists(users, top.long(), _marked(row, rank, top.shape), counts[users], catalogue)
    # Most lists have no hit, and then an accuracy of 0: the others are measured.
    some, number = torch.unique_consecutive(row, return_inverse=True)
    hit = Lists(users[some], whole.top[some], _marked(number, rank, top[some].shape), counts[users[some]])

    for name, metric in chosen.items():
        for k in cutoffs:
            if metric.needs_catalogue:
                value = metric.per_user(whole, k)
            else:
                value = _spread(metric.per_user(hit, k), some, len(users))
            if value is not None:
                yield f"{name}@{k}", value


def _marked(rows: Tensor, columns: Tensor, shape: Sequence[int]) -> Tensor:
    """1 at these places, 0 elsewhere: float64 of the shape."""
    marks = torch.zeros(*shape, dtype=torch.float64, device=rows.device)
    marks[rows, columns] = 1
    return marks


def _spread(values: Tensor | None, places: Tensor, size: int) -> Tensor | None:
    """`values` at `places`, 0 elsewhere: [size]."""
    return None if values is None else values.new_zeros(size).index_copy_(0, places, values)


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
