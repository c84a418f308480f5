"""Groups of users by activity, and of items by popularity, by rarity and by age."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from darec.common.interactions import Interactions, Pairs
from darec.evaluation.protocol import Matches, Scores
from darec.evaluation.significance import interval

USER, ITEM, AGE, RARITY = "user", "item", "item age", "item rarity"
REFERENCE = "reference"
"""The other model that `gain` compares with."""
BOUNDS = ((0, 0), (1, 5), (6, 20), (21, None))
"""Train interactions of the items of each group of `RARITY`: new, rare, and two groups of warm items."""


@dataclass(frozen=True)
class Slice:
    """The users or held-out items with `low` to `high` train interactions (side `user`, `item`, `item rarity`) or days
    since the first one (side `item age`), inclusive."""

    side: str
    low: int
    high: int
    users: int
    """Number of users in the means."""
    pairs: int
    """Number of held-out pairs in the slice."""
    metrics: dict[str, float]
    others: dict[str, dict[str, float]]
    """Accuracy of other models in the same slice, by their name."""
    gain: tuple[float, float] | None = None
    """95% interval over users of the model's recall at the largest cutoff minus that of the reference."""


def slices(
    matches: Matches,
    data: Interactions,
    held_out: Pairs,
    cutoffs: tuple[int, ...],
    groups: int,
    scores: Scores | None = None,
    ages: Tensor | None = None,
    others: Mapping[str, Matches] | None = None,
) -> list[Slice]:
    """Splits users and items into groups with about the same number of held-out pairs. Cold users or items are a
    separate group. If `others` have a reference, there are also the groups of `BOUNDS`, the same for any data.

    An item slice counts only its own items as relevant: the users' lists are the same as for the whole.

    Args:
        matches: the lists of the model, and which of their entries are held-out pairs.
        data: its train pairs define the activity of users and the popularity of items.
        held_out: the pairs that are split.
        cutoffs: the k of each metric.
        groups: number of groups of each side, besides cold ones.
        scores: metrics of the model against all pairs; those that do not depend on hits are taken from it.
        ages: days since each item's first train interaction, -1 for an item without one, int64 [n_items].
        others: the same as `matches` for other models.
    """
    values = {
        USER: torch.bincount(data.train.users, minlength=data.n_users),
        ITEM: (popularity := torch.bincount(data.train.items, minlength=data.n_items)),
        RARITY: popularity,
    } | ({} if ages is None else {AGE: ages})

    def of(pairs: Pairs, side: str) -> Tensor:
        return values[side][pairs.users if side == USER else pairs.items]

    parts = [(side, *bounds) for side in (USER, ITEM) for bounds in equal_groups(of(held_out, side), groups)]
    if ages is not None:
        age = of(held_out, AGE)
        parts += [(AGE, low, high) for low, high in age_groups(age, groups)]

    if others and REFERENCE in others:
        most = int(popularity.max())
        parts += [(RARITY, low, most if high is None else high) for low, high in BOUNDS if low <= most]

    found = []
    numbers = {side: (of(matches.pairs, side), of(held_out, side)) for side in values}
    for side, low, high in parts:
        distinct, every = numbers[side]
        inside = (distinct >= low) & (distinct <= high)
        if side == RARITY and not inside.any():
            continue
        scored = matches.score(cutoffs, relevant=inside)
        means = _with_rest(scored, scores) if scores else scored.means()
        rest = {name: each.score(cutoffs, relevant=inside) for name, each in (others or {}).items()}
        gain = interval(scored, rest[REFERENCE], f"recall@{max(cutoffs)}") if REFERENCE in rest else None
        pairs = int(((every >= low) & (every <= high)).sum())
        accuracy = {name: each.means() for name, each in rest.items()}
        found.append(Slice(side, low, high, len(scored.users), pairs, means, accuracy, gain))

    return found


def _with_rest(scored: Scores, every: Scores) -> dict[str, float]:
    """Means over the users of a slice: of its own metrics, and of those of `every` that the slice does not have."""
    inside = torch.isin(every.users, scored.users)
    own = scored.means()
    return {name: own[name] if name in own else float(value[inside].mean()) for name, value in every.values.items()}


def age_groups(ages: Tensor, groups: int) -> list[tuple[int, int]]:
    """(smallest, largest) age of each group with about as many of the held-out pairs, whose items have these ages; -1
    is an item without interactions.
    """
    # Days plus 1, because `equal_groups` makes 0 a separate group.
    return [(low - 1, high - 1) for low, high in equal_groups(ages[ages >= 0] + 1, groups)]


def equal_groups(degree: Tensor, groups: int) -> list[tuple[int, int]]:
    """(smallest, largest) degree of each non-empty group with about as many entries; 0 is a separate group."""
    warm = degree[degree > 0]
    bounds = [(0, 0)] if len(warm) < len(degree) else []
    if not len(warm):
        return bounds
    # torch.quantile takes at most 2^24 numbers.
    places = (torch.linspace(0, 1, groups + 1, dtype=torch.float64) * (len(warm) - 1)).long()
    cuts = sorted(set(warm.sort().values[places[1:]].tolist()))
    return bounds + [(low + 1, high) for low, high in zip([0, *cuts[:-1]], cuts, strict=True)]
