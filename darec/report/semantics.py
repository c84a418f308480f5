"""The LLM section, and item neighbourhoods and maps by text vectors and by trained vectors."""

from typing import Any

import numpy as np
import polars as pl

from darec.artifacts import files
from darec.common.errors import DarecError
from darec.report.content import Absent, Generation, Map, Neighbours, Panel, Sample
from darec.report.source import Floats, Source, rows_at_ranks
from schemas import columns as c

_STAGES = ("profile_items", "profile_users", "embed")
_RANKS = (1.0, 0.9, 0.6, 0.3)  # ranks by popularity of the items whose neighbours are shown
_NEAREST = 5
_POINTS = 1200  # maximum number of dots on a map
_OTHER = 7  # the group of all values after the first 7, which is the number of colours; it is grey
_MOST_VALUES, _LONGEST_VALUE = 60, 30  # an attribute with more or longer values is not used for colours


def generation(source: Source) -> tuple[Generation, ...]:
    """The results of the LLM and the encoder, with some profiles and their prompts."""
    if not any(stage in source.artifacts for stage in _STAGES):
        raise DarecError("the recipe does not use text")
    return tuple(_generation(stage, source) for stage in _STAGES if source.has(stage))


def _generation(stage: str, source: Source) -> Generation:
    report = source.artifact(stage).manifest.report
    samples = tuple(_sample(each) for each in report.get("samples", ()))
    facts = tuple((name.replace("_", " "), _fact(value)) for name, value in report.items() if name != "samples")
    return Generation(stage, facts, samples)


def _sample(each: Any) -> Sample:
    """The LLM's samples have prompt and profile, the encoder's are the texts it encoded."""
    return Sample(each, None) if isinstance(each, str) else Sample(each["profile"], each["prompt"])


def _fact(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in value.items()) or "none"
    return f"{value:,.2f}" if isinstance(value, float) else value


def neighbours(source: Source) -> tuple[Neighbours, ...]:
    """The items nearest to a few items, from the most popular one to a rarer one, before and after training."""
    items = source.items
    trained = unit_rows(source.read(files.EMBEDDINGS).item)
    text = unit_rows(source.read(files.TEXT_VECTORS).item) if source.has("embed") else None
    counts = items[c.TRAIN_COUNT].to_numpy()
    return tuple(
        Neighbours(
            title=items[c.TITLE][row],
            interactions=int(counts[row]),
            before=Absent("no text vectors") if text is None else _nearest(text, row, items[c.TITLE]),
            after=_nearest(trained, row, items[c.TITLE]),
        )
        for row in rows_at_ranks(counts, _RANKS)
    )


def _nearest(directions: Floats, row: int, titles: pl.Series) -> tuple[tuple[str, float], ...]:
    cosines = directions @ directions[row]
    cosines[row] = -np.inf
    best = np.argsort(-cosines, kind="stable")[: min(_NEAREST, len(cosines) - 1)]
    return tuple((titles[int(other)], float(cosines[other])) for other in best)


def unit_rows(vectors: Floats) -> Floats:
    """Rows of length 1; a zero row remains zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def item_map(source: Source) -> Map:
    """The items on the plane of their first two principal components: by text vector, and by trained vector.

    Of a large catalogue, the most popular items are shown.
    """
    items = source.items
    shown = np.sort(np.argsort(-items[c.TRAIN_COUNT].to_numpy(), kind="stable")[:_POINTS])
    coloured_by, groups, numbers = _groups(items[shown])
    spaces = {"by trained vector": files.EMBEDDINGS}
    if source.has("embed"):
        spaces = {"by text vector": files.TEXT_VECTORS, **spaces}
    titles = items[c.TITLE][shown].to_list()
    panels = [_panel(name, source.read(space).item[shown], numbers, titles) for name, space in spaces.items()]

    return Map(coloured_by, groups, tuple(panels), len(shown), items.height)


def _panel(name: str, vectors: Floats, numbers: list[int], titles: list[str]) -> Panel:
    centred = (vectors - vectors.mean(0)).astype(np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(vectors), 2))
    plane[:, : min(2, len(singular))] = (left * singular)[:, :2]
    explained = float((singular[:2] ** 2).sum() / max((singular**2).sum(), 1e-12))
    return Panel(name, tuple(zip(*plane.T.tolist(), numbers, titles, strict=True)), explained=explained)


def _groups(items: pl.DataFrame) -> tuple[str, tuple[tuple[int, str], ...], list[int]]:
    """The attribute for the colours of items, the names of the groups, and each item's group."""
    first = _first_values(items)
    if first.is_empty():
        return _popularity_groups(items)

    name = first["name"][0]
    values = first.filter(pl.col("name") == name)
    top = values["value"].value_counts(sort=True).sort("count", "value", descending=[True, False])["value"][:_OTHER]
    known = dict(values.select("row", "value").iter_rows())
    numbers = {value: number for number, value in enumerate(top)}
    found = [numbers.get(known.get(row, ""), _OTHER) for row in range(items.height)]
    other = ((_OTHER, "other"),) if _OTHER in found else ()

    return f"first of {name}", (*enumerate(top), *other), found


def _first_values(items: pl.DataFrame) -> pl.DataFrame:
    """`row`, `name`, `value`: the first value of each attribute that half of the items have and that has few, short
    values, sorted by the number of values and then by their length.
    """
    rows = items.with_row_index("row").explode(c.ATTRIBUTES).drop_nulls(c.ATTRIBUTES).unnest(c.ATTRIBUTES)
    value = pl.col("value").str.split(",").list.first().str.split("|").list.first().str.strip_chars()
    split = rows.select("row", "name", value=value).filter(pl.col("value") != "")
    usable = (
        split.group_by("name")
        .agg(values=pl.col("value").n_unique(), rows=pl.len(), longest=pl.col("value").str.len_chars().max())
        .filter(pl.col("values").is_between(2, _MOST_VALUES), pl.col("longest") <= _LONGEST_VALUE)
        .filter(pl.col("rows") >= 0.5 * items.height)
        .sort("values", "longest", "name")
    )
    return split.join(usable, on="name", maintain_order="right")


def _popularity_groups(items: pl.DataFrame) -> tuple[str, tuple[tuple[int, str], ...], list[int]]:
    counts = items[c.TRAIN_COUNT].to_numpy()
    bounds = np.unique(np.quantile(counts, [0.2, 0.4, 0.6, 0.8], method="lower"))
    names = [f"up to {bound:,}" for bound in bounds] + [f"more than {bounds[-1]:,}"]
    return "train interactions", tuple(enumerate(names)), np.searchsorted(bounds, counts).tolist()
