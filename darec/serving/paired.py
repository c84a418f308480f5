"""Compares two evaluated runs user by user: paired tests of their metrics, and the lists of single users."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from darec.artifacts.formats import Vectors
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import Scores, rank
from darec.evaluation.rerankers import read
from darec.evaluation.significance import compare, interval
from schemas import columns as c


@dataclass(frozen=True)
class MetricRow:
    """One metric on test: both means, the difference over users, its 95% interval, and the p-values of paired tests."""

    name: str
    first: float
    second: float
    difference: float
    """The second value minus the first."""
    low: float
    high: float
    t_test: float
    wilcoxon: float


def paired_tests(first: pl.DataFrame, second: pl.DataFrame, names: Sequence[str]) -> list[MetricRow]:
    """Tests of the metrics `names` over users; both tables have one row per user, the same users in the same order."""
    before, after = _scores(first, names), _scores(second, names)
    tests, rows = compare(after, before), []
    for name in names:
        low, high = interval(after, before, name)
        means = float(before.values[name].mean()), float(after.values[name].mean())
        rows.append(
            MetricRow(name, *means, tests[name].difference, low, high, tests[name].t_test, tests[name].wilcoxon)
        )

    return rows


def top_lists(
    vectors: Vectors, parts: Sequence[pl.DataFrame], users: Sequence[int], k: int, reranker: Path | None = None
) -> dict[int, list[int]]:
    """The first k items of some users, as `evaluate` ranks them.

    Args:
        vectors: the trained vectors.
        parts: train, validation and test.
        users: their indices.
        k: length of each list.
        reranker: the file of a fitted reranker; None without one.
    """
    final = Representations.join(torch.from_numpy(vectors.user), torch.from_numpy(vectors.item))
    data = Interactions(final.n_users, len(final.item), *map(Pairs.of_table, parts))
    asked = Pairs.of(np.array(users), np.zeros(len(users), np.int64))
    ranking = rank(final, data.train, asked, min(k, data.n_items), reranker=read(reranker) if reranker else None)
    return {int(user): top.tolist() for user, top in zip(ranking.users, ranking.top, strict=True)}


def _scores(table: pl.DataFrame, names: Sequence[str]) -> Scores:
    users = torch.from_numpy(table[c.USER_INDEX].cast(pl.Int64).to_numpy().copy())
    values = {name: torch.from_numpy(table[name].cast(pl.Float64).to_numpy().copy()) for name in names}
    return Scores(users, values)
