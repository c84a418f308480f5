"""Groups of users by activity and of items by popularity."""

from dataclasses import dataclass

import torch
from torch import Tensor

from darec.common.interactions import Interactions, Pairs
from darec.evaluation.metrics import Catalogue
from darec.evaluation.protocol import Ranking, score


@dataclass(frozen=True)
class Slice:
    """The users (side `user`) or held-out items (side `item`) with `low` to `high` train interactions, inclusive."""

    side: str
    low: int
    high: int
    users: int
    """Number of users in the means."""
    pairs: int
    """Number of held-out pairs in the slice."""
    metrics: dict[str, float]


def slices(
    ranking: Ranking,
    data: Interactions,
    held_out: Pairs,
    cutoffs: tuple[int, ...],
    groups: int,
    catalogue: Catalogue | None = None,
) -> list[Slice]:
    """Splits both sides into groups with about the same number of held-out pairs. Cold users or items are a separate
    group.

    An item slice counts only its own items as relevant: the users' lists are the same as for the whole.
    """
    sides = (
        ("user", torch.bincount(data.train.users, minlength=data.n_users)[held_out.users]),
        ("item", torch.bincount(data.train.items, minlength=data.n_items)[held_out.items]),
    )
    found = []
    for side, degree in sides:
        for low, high in _bounds(degree, groups):
            inside = (degree >= low) & (degree <= high)
            part = Pairs(held_out.users[inside], held_out.items[inside])
            scores = score(ranking, part, data.n_items, cutoffs, catalogue=catalogue)
            found.append(Slice(side, low, high, len(scores.users), len(part), scores.means()))
    return found


def _bounds(degree: Tensor, groups: int) -> list[tuple[int, int]]:
    """(least, greatest) degree of each group that is not empty."""
    warm = degree[degree > 0].double()
    bounds = [(0, 0)] if len(warm) < len(degree) else []
    if not len(warm):
        return bounds
    cuts = torch.quantile(warm, torch.linspace(0, 1, groups + 1, dtype=torch.float64), interpolation="lower").long()
    cuts = sorted(set(cuts[1:].tolist()))
    return bounds + [(low + 1, high) for low, high in zip([0, *cuts[:-1]], cuts, strict=True)]
