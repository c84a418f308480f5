"""The quality of texts as labels and values: of a run, for its report, and of prompts, for the terminal."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from darec.artifacts import files
from darec.artifacts.files import File
from darec.common.errors import DarecError
from darec.report.content import TextRow
from darec.report.source import Floats, Source
from darec.text import quality
from darec.text.quality import Estimate, Measured, Quality, Texts
from schemas import columns as c

_SIDES = (
    ("profile_items", files.ITEM_PROFILES, files.ITEMS, c.ITEM, c.ITEM_INDEX),
    ("profile_users", files.USER_PROFILES, files.USERS, c.USER, c.USER_INDEX),
)


def texts(source: Source) -> tuple[TextRow, ...]:
    """The quality of the embedded texts of items and of users."""
    if not source.has("embed"):
        raise DarecError("the recipe uses no text")

    vectors = source.read(files.TEXT_VECTORS)
    sides: dict[str, Floats] = {"profile_items": vectors.item, "profile_users": vectors.user}
    return tuple(
        _text_row(source, stage, profiles, described, name, index, sides[stage])
        for stage, profiles, described, name, index in _SIDES
        if source.has(stage) and len(sides[stage]) > 1
    )


def _text_row(
    source: Source,
    stage: str,
    profiles: File[pl.DataFrame],
    described: File[pl.DataFrame],
    name: str,
    index: str,
    vectors: Floats,
) -> TextRow:
    table = source.read(profiles).sort(index)
    rows = np.sort(np.random.default_rng(0).permutation(table.height)[: quality.MOST_ROWS])
    chosen = table[rows].join(
        source.read(described).select(name, c.ATTRIBUTES), on=name, how="left", maintain_order="left"
    )
    unit = vectors[rows] / np.maximum(np.linalg.norm(vectors[rows], axis=1, keepdims=True), 1e-12)
    part = Texts(chosen[c.PROFILE], unit, unit, chosen[c.SOURCE] == "metadata")
    pairs = quality.interaction_matrix(source.train, rows, index)
    found, _ = quality.measure(part, pairs, chosen[c.ATTRIBUTES])

    return TextRow(stage, len(rows), tuple(measures(found)))


def measures(found: Quality) -> list[tuple[str, str]]:
    """Label and value of each measure."""
    return [
        ("rows", f"{found.rows:,}"),
        ("from metadata", f"{found.fallbacks:.1%}"),
        ("words per text", f"{found.words:.1f}"),
        *([("output tokens per text", f"{found.tokens:.1f}")] if found.tokens is not None else []),
        ("distinct word pairs", f"{found.distinct_bigrams:.1%}"),
        ("near duplicates", f"{found.near_duplicates:.1%}"),
        ("shared metadata of neighbours", "–" if found.metadata is None else f"{found.metadata:.2f} x chance"),
        ("co-like lift of neighbours", _with_interval(found.lift)),
    ]


def table(sides: Sequence[Measured]) -> list[tuple[str, ...]]:
    """One row per measure, one column per prompt."""
    columns = [dict(measures(side.quality) + _judged(side)) for side in sides]
    labels = dict.fromkeys(label for column in columns for label in column)
    return [("prompt", *(side.path for side in sides))] + [
        (label, *(column.get(label, "–") for column in columns)) for label in labels
    ]


def _judged(side: Measured) -> list[tuple[str, str]]:
    found = side.judged
    if found is None:
        return []

    agreement = "unknown (all scores are equal)" if np.isnan(found.correlation) else f"{found.correlation:+.2f}"
    p_value = "" if np.isnan(found.p_value) else f" (p {found.p_value:.2g}, {found.rows:,} rows)"
    return [
        ("score of the judge, 1 to 5", f"{found.score:.2f}"),
        ("its rank correlation with the lift", agreement + p_value),
    ]


def _with_interval(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
