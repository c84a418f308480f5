"""Metrics beyond accuracy, computed by hand, and what makes a new metric whole."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation import registry
from darec.evaluation.metrics import CATALOGUE_METRICS, USER_METRICS, Catalogue, Lists, UserMetric
from darec.evaluation.report import report
from darec.evaluation.slices import equal_groups
from schemas.consistency import METRICS
from schemas.training import EvaluateConfig

# Item 0 is in ten histories, item 1 in that of user 0 too, items 2 and 3 in none.
TRAIN = Pairs.of(np.array([*range(10), 0]), np.array([0] * 10 + [1]))
VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
CATEGORIES = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
CATALOGUE = Catalogue(TRAIN, 10, 4, VECTORS, CATEGORIES)
TOP = torch.tensor([[2, 3], [1, 2]])


def lists(catalogue: Catalogue | None = CATALOGUE) -> Lists:
    return Lists(torch.tensor([0, 1]), TOP, torch.zeros(2, 2, dtype=torch.float64), torch.ones(2), catalogue)


def value(name: str, k: int) -> list[float]:
    measured = USER_METRICS.make(name).per_user(lists(), k)
    assert measured is not None
    return measured.tolist()


def test_recipes_know_every_metric() -> None:
    assert set(registry.NAMES) == set(METRICS)


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_metric_of_accuracy_is_0_for_a_list_without_hits(name: str) -> None:
    """Such lists are not measured."""
    if name in USER_METRICS and not USER_METRICS.make(name).needs_catalogue:
        assert value(name, 2) == [0.0, 0.0]


def test_novelty() -> None:
    assert value("novelty", 2) == pytest.approx([np.log2(10)] * 2)


def test_diversity() -> None:
    assert value("diversity", 2) == pytest.approx([2.0, 1.0])  # cosines -1 and 0
    assert value("diversity", 1) == [0.0, 0.0]
    without_text = Catalogue(TRAIN, 10, 4)
    assert USER_METRICS.make("diversity").per_user(lists(without_text), 2) is None


def test_popularity_groups_and_the_long_tail() -> None:
    # Before item 0 stand no interactions, before item 1 ten of eleven: more than four fifths.
    assert CATALOGUE.popularity_group.tolist() == [0, 2, 2, 2]
    assert value("long_tail", 2) == [1.0, 1.0]


def test_calibration_is_the_divergence_from_the_users_own_history() -> None:
    # User 0 has one popular item and one of the tail, user 1 only a popular one; both lists are all tail.
    expected = [jensenshannon([1, 0, 1], [0, 0, 1], base=2) ** 2, jensenshannon([1, 0, 0], [0, 0, 1], base=2) ** 2]
    assert value("calibration", 2) == pytest.approx(expected)
    assert expected[1] == pytest.approx(1.0)


def test_coverage_of_items_and_of_categories() -> None:
    assert CATALOGUE_METRICS.make("coverage").overall(TOP, CATALOGUE) == 0.75
    # Of the first category items 0 and 1, of which 1 is shown; of the second 1 and 2, both shown.
    assert CATALOGUE_METRICS.make("category_coverage").overall(TOP, CATALOGUE) == 0.75
    assert CATALOGUE_METRICS.make("category_coverage").overall(TOP, Catalogue(TRAIN, 10, 4)) is None


def test_gini() -> None:
    # Exposures 0, 1, 2, 1: mean absolute difference over twice the mean.
    exposure = np.array([0, 1, 2, 1])
    expected = np.abs(exposure[:, None] - exposure).mean() / (2 * exposure.mean())
    assert CATALOGUE_METRICS.make("gini").overall(TOP, CATALOGUE) == pytest.approx(expected)
    everything = torch.tensor([[0, 1], [2, 3]])
    assert CATALOGUE_METRICS.make("gini").overall(everything, CATALOGUE) == pytest.approx(0)


def test_a_metric_that_is_one_class_is_in_values_slices_and_significance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(USER_METRICS, "_factories", USER_METRICS._factories.copy())

    @USER_METRICS.register("first_item")
    class FirstItem(UserMetric):
        """The number of the first item."""

        def per_user(self, lists: Lists, k: int) -> torch.Tensor:
            return lists.top[:, 0].double()

    generator = torch.Generator().manual_seed(0)
    rows = [Representations(torch.randn(16, 4, generator=generator), 10) for _ in range(2)]
    train, held = Pairs.of(np.arange(10), np.zeros(10, int)), Pairs.of(np.arange(10), np.arange(10) % 5 + 1)
    data = Interactions(10, 6, train, held, held)
    result = report(rows[0], rows[1], data, EvaluateConfig(cutoffs=(2,)))
    assert {"first_item@2", "reference/first_item@2"} <= set(result.per_user.columns)
    assert "first_item@2" in result.metrics["test"] and "first_item@2" in result.metrics["significance"]
    assert all("first_item@2" in part["metrics"] for part in result.metrics["slices"])


def test_groups_of_more_pairs_than_a_quantile_of_torch_takes() -> None:
    degrees = torch.arange(1, 2**24 + 2, dtype=torch.int32)
    assert equal_groups(degrees, 2) == [(1, 2**23 + 1), (2**23 + 2, 2**24 + 1)]
