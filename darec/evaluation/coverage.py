"""Coverage: the share of the catalogue that is recommended."""

import torch
from torch import Tensor

from darec.evaluation.metrics import CATALOGUE_METRICS, Catalogue, CatalogueMetric


def _shown(top: Tensor, catalogue: Catalogue) -> Tensor:
    """Whether each item is in a list: bool [n_items]."""
    shown = torch.zeros(catalogue.n_items, dtype=torch.bool)
    shown[top.reshape(-1)] = True
    return shown


@CATALOGUE_METRICS.register("coverage")
class Coverage(CatalogueMetric):
    """The fraction of all items that are in at least one list."""

    def overall(self, top: Tensor, catalogue: Catalogue) -> float:
        """In [0, 1]."""
        return float(_shown(top, catalogue).sum()) / catalogue.n_items


@CATALOGUE_METRICS.register("category_coverage")
class CategoryCoverage(CatalogueMetric):
    """The fraction of the items of a category that are in at least one list, averaged over categories.

    A category with few items counts as much as one with many. It is measured where `evaluate.category` is set.
    """

    def overall(self, top: Tensor, catalogue: Catalogue) -> float | None:
        """In [0, 1]."""
        if catalogue.categories is None:
            return None
        sizes = catalogue.categories.sum(0)
        shares = (catalogue.categories & _shown(top, catalogue)[:, None]).sum(0).double() / sizes.clamp_min(1)
        return float(shares[sizes > 0].mean())
