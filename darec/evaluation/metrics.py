"""The base classes of metrics: one class with a name, over the lists of all evaluated users.

A `UserMetric` has a value for every user, and therefore means, slices of users and items, and paired tests. A
`CatalogueMetric` has one value per model: how the lists of all users together use the catalogue. Either is a class in a
file of this folder, registered under its name, which reports follow with `@k`, and imported in
`darec.evaluation.registry`. Recipes are validated against the names in `schemas.consistency.METRICS`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from darec.common.interactions import Interactions, Pairs
from darec.common.registry import Registry


@dataclass(frozen=True)
class Catalogue:
    """The data that metrics beyond accuracy may use."""

    train: Pairs
    n_users: int
    n_items: int
    item_vectors: Tensor | None = None
    """Unit text vectors, float32 [n_items, d]; None where the model uses no text."""
    categories: Tensor | None = None
    """The categories of each item, bool [n_items, C]; None if the recipe names no category."""

    @classmethod
    def of(
        cls, data: Interactions, item_vectors: Tensor | None = None, categories: Tensor | None = None
    ) -> "Catalogue":
        """The catalogue of a data set."""
        return cls(data.train, data.n_users, data.n_items, item_vectors, categories)

    @cached_property
    def counts(self) -> Tensor:
        """Train interactions of each item, float64 [n_items]."""
        return torch.bincount(self.train.items, minlength=self.n_items).double()

    @cached_property
    def information(self) -> Tensor:
        """-log2 of the share of users who have the item in train, float64 [n_items]. An item without train interactions
        counts as if it had one.
        """
        return -torch.log2(self.counts.clamp_min(1) / self.n_users)

    @cached_property
    def popularity_group(self) -> Tensor:
        """The popularity group of each item, uint8 [n_items]: 0 for the most popular items, which have a fifth of all
        train interactions, 2 for the least popular ones, which have the last fifth (the long tail, including items
        without interactions), and 1 for the others.
        """
        order = torch.argsort(self.counts, descending=True, stable=True)
        before = self.counts[order].cumsum(0) - self.counts[order]
        share = before / self.counts.sum().clamp_min(1)
        group = torch.empty_like(order, dtype=torch.uint8)
        group[order] = (share >= 0.2).byte() + (share >= 0.8).byte()
        return group

    @cached_property
    def histories(self) -> Tensor:
        """The number of train interactions of each user with items of each popularity group: float64 [n_users, 3]."""
        groups = 3
        places = self.train.users * groups
        places += self.popularity_group[self.train.items]
        return torch.bincount(places, minlength=self.n_users * groups).view(self.n_users, groups).double()

    @cached_property
    def history(self) -> Tensor:
        """The number of train interactions with items of each popularity group: float64 [3]."""
        return self.histories.sum(0)


@dataclass(frozen=True)
class Lists:
    """The first K items of n users, and the hits among them."""

    users: Tensor
    """int64 [n]."""
    top: Tensor
    """Item numbers, best first, int64 [n, K]."""
    hits: Tensor
    """1 where the item at that rank is relevant, float64 [n, K]."""
    relevant: Tensor
    """The number of relevant items, at least 1, float64 [n]."""
    catalogue: Catalogue | None = None


class UserMetric(ABC):
    """A metric with a value for every user: one of accuracy, which is 0 for a list without hits, or one of the list
    itself, which does not depend on hits.
    """

    needs_catalogue: ClassVar[bool] = False
    """Whether it is a metric of the list itself, which needs the catalogue."""

    @abstractmethod
    def per_user(self, lists: Lists, k: int) -> Tensor | None:
        """The value of each user's first k items, float64 [n]. None if the data lacks what the metric needs."""


class CatalogueMetric(ABC):
    """A metric with one value for all lists together."""

    @abstractmethod
    def overall(self, top: Tensor, catalogue: Catalogue) -> float | None:
        """The value of the lists `top`, int64 [n, k]. None if the data lacks what the metric needs."""


USER_METRICS: Registry[UserMetric] = Registry("metric")
CATALOGUE_METRICS: Registry[CatalogueMetric] = Registry("metric")
