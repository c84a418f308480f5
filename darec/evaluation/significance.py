"""Paired significance tests of two models over the same users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from darec.evaluation.protocol import Scores


@dataclass(frozen=True)
class Comparison:
    """Two-sided paired tests of one metric over n users."""

    difference: float
    """Mean of the first model's value minus the second's."""
    t_test: float
    """p of Student's paired t-test."""
    wilcoxon: float
    """p of Wilcoxon's signed-rank test."""
    interval: tuple[float, float] = (0.0, 0.0)
    """95% confidence interval of the difference."""


def compare(first: Scores, second: Scores) -> dict[str, Comparison]:
    """Every metric of both; the users must be the same, in the same order."""
    return {name: _compare(first, second, name) for name in first.values}


def interval(first: Scores, second: Scores, name: str, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean difference over users, first model minus second (Student's t).

    The users must be the same, in the same order. With fewer than two users it is (-1, 1).
    """
    gap = (first.values[name] - second.values[name]).cpu().numpy()
    if len(gap) < 2:
        return -1.0, 1.0
    reach = float(stats.t.ppf((1 + level) / 2, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
    return float(gap.mean()) - reach, float(gap.mean()) + reach


def _compare(first: Scores, second: Scores, name: str) -> Comparison:
    gap = (first.values[name] - second.values[name]).cpu().numpy()
    if not gap.any():  # equal values, or no users: no evidence of a difference
        return Comparison(0.0, 1.0, 1.0)
    tests: tuple[Any, Any] = stats.ttest_1samp(gap, 0.0), stats.wilcoxon(gap, zero_method="pratt")
    pvalues = (float(test.pvalue) for test in tests)
    return Comparison(float(gap.mean()), *pvalues, interval=interval(first, second, name))
