"""Measures of the quality of texts without training.

The main measure is the co-like lift: the share of an item's co-likes in train that its k nearest neighbours by text
vector have, divided by the share that they would have if co-likes depended on popularity only. 1 is chance. For users
it is computed in the same way: two users are co-liked if they like the same item. Intervals are percentiles of a
bootstrap over rows; two prompts are compared on the same rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from schemas import columns as c

NEIGHBOURS = 10
"""Number of nearest neighbours k."""
MOST_ROWS = 2000
"""Default number of measured rows: a random sample of a larger table."""
_NEAR = 0.95  # minimum cosine of near duplicates
_MOST_OWNERS = 20_000  # maximum number of users (or items) whose interactions are used
_BLOCK = 1024  # number of rows whose cosines with all others are in memory at once
_RESAMPLES = 1000
_SHARED = 2  # minimum number of rows with a value of an attribute

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Lift:
    """Observed and expected share of each row; NaN for a row without co-likes."""

    observed: Floats
    expected: Floats

    @property
    def per_row(self) -> Floats:
        """The lift of each row [n]."""
        return self.observed / self.expected

    def over(self, weights: Floats) -> Floats:
        """The lift over all rows for each of several weightings of the rows [resamples, n]."""
        known = np.isfinite(self.per_row)
        chosen = weights[:, known]
        return chosen @ self.observed[known] / np.maximum(chosen @ self.expected[known], 1e-12)


@dataclass(frozen=True)
class Texts:
    """The texts of some rows, and their vectors."""

    profiles: pl.Series
    vectors: Floats
    """Vectors of the profiles, L2-normalised [n, d]."""
    full_vectors: Floats
    """Vectors of the texts that training would use, which also contain titles and attributes [n, d]."""
    fallback: pl.Series
    """Whether the text comes from metadata."""
    tokens: pl.Series | None = None
    """Output tokens of the LLM; null if unknown."""


@dataclass(frozen=True)
class Quality:
    """The measures of the texts of one prompt."""

    rows: int
    fallbacks: float
    """Share of rows whose text comes from metadata."""
    words: float
    """Mean length in words."""
    tokens: float | None
    """Mean output tokens of the LLM."""
    distinct_bigrams: float
    """Distinct pairs of adjacent words divided by all such pairs: low if all texts are similar."""
    near_duplicates: float
    """Share of rows with another text that has the same words or a cosine of at least 0.95."""
    metadata: float | None
    """How much more often two text neighbours share a value of an attribute than any two rows do; None without
    attributes.
    """
    lift: Estimate | None
    """The co-like lift; None if there are no co-likes."""


@dataclass(frozen=True)
class Judged:
    """The scores of an LLM judge for the texts of one prompt."""

    score: float
    """Mean score, from 1 to 5."""
    correlation: float
    """Spearman's correlation over rows of its scores with the co-like lift; NaN if either is constant."""
    p_value: float
    rows: int
    """Number of rows that have both."""


@dataclass(frozen=True)
class Measured:
    """The texts of one prompt."""

    path: str
    quality: Quality
    judged: Judged | None = None


@dataclass(frozen=True)
class Report:
    """The texts of one prompt, or of two on the same rows."""

    name: str
    table: int
    """Number of rows of the whole table."""
    old: Measured
    new: Measured | None = None
    change: Estimate | None = None
    """New minus old co-like lift, by a bootstrap over the rows, with the same rows for both prompts."""


def measure(texts: Texts, pairs: sparse.csr_array, attributes: pl.Series, seed: int = 0) -> tuple[Quality, Lift | None]:
    """The quality of texts, and the lift of each row.

    Args:
        texts: the texts of n rows.
        pairs: train interactions [owners, n]: of users with these items, or of items with these users.
        attributes: attributes of each row.
        seed: of the bootstrap.
    """
    near = nearest(texts.vectors)
    shared = shared_values(attributes)
    metadata = lift_of(near.rows, shared, np.ones(len(texts.profiles))) if shared.nnz else None
    lift = co_likes(texts.full_vectors, pairs)
    same = texts.profiles.str.to_lowercase().is_duplicated().to_numpy()

    words = texts.profiles.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}']+")
    quality = Quality(
        rows=len(texts.profiles),
        fallbacks=_mean(texts.fallback.cast(pl.Float64)) or 0.0,
        words=_mean(words.list.len()) or 0.0,
        tokens=None if texts.tokens is None else _mean(texts.tokens),
        distinct_bigrams=distinct_bigrams(words),
        near_duplicates=float(np.mean(same | (near.cosines[:, 0] >= _NEAR))) if len(same) > 1 else 0.0,
        metadata=None if metadata is None else _plain(metadata),
        lift=None if lift is None else estimate(lift, seed),
    )
    return quality, lift


@dataclass(frozen=True)
class Near:
    """The nearest other rows of each row, best first: row numbers and cosines [n, k]."""

    rows: NDArray[np.int64]
    cosines: Floats


def nearest(vectors: Floats, k: int = NEIGHBOURS) -> Near:
    """The k nearest other rows by cosine; fewer if there are fewer rows."""
    count = len(vectors)
    k = min(k, count - 1)
    rows, cosines = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors.T
        here = np.arange(len(block))
        block[here, here + start] = -np.inf
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, best, 1), axis=1, kind="stable")
        rows[start : start + _BLOCK] = np.take_along_axis(best, order, 1)
        cosines[start : start + _BLOCK] = np.take_along_axis(block, rows[start : start + _BLOCK], 1)

    return Near(rows, cosines)


def co_likes(vectors: Floats, pairs: sparse.csr_array, k: int = NEIGHBOURS) -> Lift | None:
    """The co-like lift of each row; None if there are no co-likes."""
    owners = np.arange(0, _length(pairs), max(1, -(-_length(pairs) // _MOST_OWNERS)))
    liked = sparse.csr_array(pairs[owners]).astype(np.float32)
    liked.data[:] = 1.0
    together = sparse.csr_array(liked.T @ liked)
    together.setdiag(0)
    together.eliminate_zeros()
    popularity = np.asarray(liked.sum(axis=0)).ravel()
    return lift_of(nearest(vectors, k).rows, together, popularity) if together.nnz else None


def lift_of(neighbours: NDArray[np.int64], affinity: sparse.csr_array, popularity: Floats) -> Lift:
    """The share of each row's affinity with its neighbours, and the share expected from popularity.

    Args:
        neighbours: row numbers [n, k].
        affinity: affinity of two rows [n, n], without the diagonal.
        popularity: weight of each row [n].
    """
    count = _length(affinity)
    own = np.repeat(np.arange(count), neighbours.shape[1])
    found = np.asarray(affinity[own, neighbours.ravel()]).reshape(neighbours.shape)
    total = np.asarray(affinity.sum(axis=1)).ravel().astype(np.float64)
    total[total == 0] = np.nan
    expected = popularity[neighbours].sum(axis=1) / np.maximum(popularity.sum() - popularity, 1e-12)
    return Lift(found.sum(axis=1) / total, np.where(expected > 0, expected, np.nan))


def estimate(lift: Lift, seed: int = 0) -> Estimate:
    """The lift over all rows, and its interval."""
    return _interval(_plain(lift), lift.over(_resamples(len(lift.observed), seed)))


def change(old: Lift, new: Lift, seed: int = 0) -> Estimate:
    """The new lift minus the old one over the same rows, in each resample."""
    weights = _resamples(len(old.observed), seed)
    return _interval(_plain(new) - _plain(old), new.over(weights) - old.over(weights))


def agreement(scores: Floats, lift: Lift) -> tuple[float, float, int]:
    """Spearman's correlation of the rows' scores with their lift, its p-value, and the number of rows."""
    known = np.isfinite(scores) & np.isfinite(lift.per_row)
    if known.sum() < 3 or np.ptp(scores[known]) == 0 or np.ptp(lift.per_row[known]) == 0:
        return float("nan"), float("nan"), int(known.sum())

    from scipy import stats  # takes as long as all other imports of this file, and reports and flows import it, too

    result: Any = stats.spearmanr(scores[known], lift.per_row[known])
    return float(result.statistic), float(result.pvalue), int(known.sum())


def distinct_bigrams(words: pl.Series) -> float:
    """Distinct pairs of adjacent words divided by all pairs; 1 if there are none."""
    both = pl.col("words").list.slice(0, pl.col("words").list.len().clip(1) - 1), pl.col("words").list.slice(1)
    pairs = words.alias("words").to_frame().filter(pl.col("words").list.len() > 1)
    bigrams = pairs.select(left=both[0], right=both[1]).explode("left", "right")
    return bigrams.n_unique() / bigrams.height if bigrams.height else 1.0


def shared_values(attributes: pl.Series) -> sparse.csr_array:
    """Which rows share a value of an attribute: 1 for such pairs [n, n], without the diagonal."""
    count = len(attributes)
    values = (
        attributes.alias(c.ATTRIBUTES)
        .to_frame()
        .with_row_index("row")
        .explode(c.ATTRIBUTES)
        .drop_nulls(c.ATTRIBUTES)
        .unnest(c.ATTRIBUTES)
        .with_columns(pl.col("value").str.replace_all("|", ",", literal=True).str.split(","))
        .explode("value")
        .with_columns(pl.col("value").str.strip_chars().str.to_lowercase())
        .filter(pl.col("value") != "")
        .unique(["row", "name", "value"])
        .filter(pl.len().over("name", "value") >= _SHARED)
    )
    if values.is_empty():
        return sparse.csr_array((count, count), dtype=np.float32)

    numbers = values.select(pl.struct("name", "value").rank("dense"))["name"].to_numpy() - 1
    ones = np.ones(values.height, np.float32)
    held = sparse.csr_array((ones, (values["row"].to_numpy(), numbers)), shape=(count, int(numbers.max()) + 1))

    shared = sparse.csr_array(held @ held.T)
    shared.data[:] = 1.0
    shared.setdiag(0)
    shared.eliminate_zeros()
    return shared


def interaction_matrix(train: pl.DataFrame, rows: NDArray[np.int64], of: str) -> sparse.csr_array:
    """Train interactions of some rows: [owners, rows].

    Args:
        train: user and item index of each interaction.
        rows: indices of the chosen items or users.
        of: the index column of the rows; the owners are in the other one.
    """
    other = c.USER_INDEX if of == c.ITEM_INDEX else c.ITEM_INDEX
    numbers = pl.DataFrame({of: pl.Series(rows, dtype=pl.Int32), "row": np.arange(len(rows))})
    known = train.select(other, of).join(numbers, on=of)
    owners = known[other].rank("dense").to_numpy() - 1
    shape = (int(owners.max()) + 1 if len(owners) else 1, len(rows))
    return sparse.csr_array((np.ones(known.height, np.float32), (owners, known["row"].to_numpy())), shape=shape)


def _length(matrix: sparse.csr_array) -> int:
    return len(matrix.indptr) - 1


def _plain(lift: Lift) -> float:
    return float(lift.over(np.ones((1, len(lift.observed))))[0])


def _resamples(count: int, seed: int) -> Floats:
    """The number of times that each row is drawn in each resample [resamples, n]."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    return draws.astype(np.float64)


def _interval(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _mean(values: pl.Series) -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, int | float) else None
