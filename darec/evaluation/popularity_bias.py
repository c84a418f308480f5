"""Popularity bias: how much more popular the items in lists are than those in the users' histories."""

import torch
from torch import Tensor

from darec.evaluation.metrics import CATALOGUE_METRICS, USER_METRICS, Catalogue, CatalogueMetric, Lists, UserMetric

_GROUPS = 3


@CATALOGUE_METRICS.register("gini")
class Gini(CatalogueMetric):
    """Gini coefficient of how often each item is recommended: 0 if all are recommended equally often, near 1 if few
    are.

    It is the mean difference of two items' counts x over twice their mean: sum_ij |x_i - x_j| / (2 n sum_i x_i). With
    the counts in ascending order, x_r is the larger of r - 1 pairs and the smaller of n - r, each of which is in the
    sum twice: the numerator is 2 sum_r (2 r - n - 1) x_r.
    """

    def overall(self, top: Tensor, catalogue: Catalogue) -> float:
        """In [0, 1)."""
        exposure = torch.bincount(top.flatten(), minlength=catalogue.n_items).double().sort().values
        n = catalogue.n_items
        ranks = torch.arange(1, n + 1, dtype=torch.float64)
        return float(((2 * ranks - n - 1) * exposure).sum() / (n * exposure.sum()).clamp_min(1))


@USER_METRICS.register("long_tail")
class LongTailShare(UserMetric):
    """The fraction of a list in the long tail: the least popular items, which have the last fifth of train
    interactions.
    """

    needs_catalogue = True

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1]."""
        assert lists.catalogue is not None
        return (lists.catalogue.popularity_group[lists.top[:, :k]] == _GROUPS - 1).double().mean(1)


@USER_METRICS.register("calibration")
class PopularityCalibrationError(UserMetric):
    """Jensen-Shannon divergence between the popularity groups of a user's history and of the list.

    The user popularity deviation of Abdollahpouri et al. (UMAP 2021), per user. A user without history is compared
    with the history of all users together.
    """

    needs_catalogue = True

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """In [0, 1] bits; 0 if the list has the same popularity groups as the history."""
        catalogue = lists.catalogue
        assert catalogue is not None
        wanted = catalogue.histories[lists.users]
        wanted = torch.where(wanted.sum(1, keepdim=True) > 0, wanted, catalogue.history)
        listed = catalogue.popularity_group[lists.top[:, :k]]
        given = torch.stack([(listed == number).sum(1) for number in range(_GROUPS)], 1).double()
        return _jensen_shannon(wanted, given)


def _jensen_shannon(left: Tensor, right: Tensor) -> Tensor:
    """Base-2 Jensen-Shannon divergence of each row's distributions, given as counts: [n, G], [n, G] -> [n].

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2. It is at most 1, as p <= 2 m and therefore log2(p / m) <= 1.
    """
    left = left / left.sum(1, keepdim=True).clamp_min(1)
    right = right / right.sum(1, keepdim=True).clamp_min(1)
    middle = (left + right) / 2

    def relative_entropy(part: Tensor) -> Tensor:
        terms = torch.special.xlogy(part, part) - torch.special.xlogy(part, middle)
        return terms.sum(1) / torch.log(torch.tensor(2.0, dtype=torch.float64))

    return (relative_entropy(left) + relative_entropy(right)) / 2
