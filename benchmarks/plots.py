"""Plots of a benchmark's results, as SVG."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import polars as pl
import torch
from sklearn.manifold import TSNE

from benchmarks.grid import sweep_name
from benchmarks.results import Results
from darec.common.charts import Chart, Figure, Scatter, Series, save
from darec.model import clustering
from schemas import columns as c
from schemas.bench import BenchRecipe, Sweep

METRIC_NAMES = {"recall@20": "Recall@20", "ndcg@20": "NDCG@20"}
_PARTS = {"val": "validation", "test": "test"}
_SLICES = 4
_SIDES = ("cf", "text")


def plot_all(recipe: BenchRecipe, results: Results, folder: Path) -> list[Path]:
    """Writes all plots that the results allow: accuracy, sparsity slices, and a plot for each data set with sweeps."""
    folder.mkdir(parents=True, exist_ok=True)
    swept = {sweep_name(sweep.of, sweep.label, value) for sweep in recipe.sweeps for value in sweep.values}
    written = []
    for data in results.runs["data"].unique(maintain_order=True):
        methods = [method for method in results.methods(data) if method[1] not in swept]
        if methods:
            written.append(save(accuracy(results, data, methods, recipe.shown), folder / f"{data}-accuracy.svg"))
        if methods and recipe.shown == "test":
            written.append(save(by_sparsity(results, data, methods), folder / f"{data}-sparsity.svg"))
        if recipe.sweeps and swept & {alignment for _, alignment in results.methods(data)}:
            written.append(save(sensitivity(recipe, results, data), folder / f"{data}-sensitivity.svg"))

    return written


def accuracy(results: Results, data: str, methods: Sequence[tuple[str, str]], part: str = "test") -> Figure:
    """One point per method, with the standard deviation over seeds."""
    charts = []
    for metric, title in METRIC_NAMES.items():
        values = [results.values(data, *method, metric, part) for method in methods]
        points = Series(
            title,
            tuple((mean(each), row) for row, each in enumerate(values)),
            "dots",
            x_errors=tuple(_spread(each) for each in values),
            labels=tuple(f"{mean(each):.4f}" for each in values),
            colour=0,
        )
        # Only the first chart names the rows, which are the same in both.
        names = _names(methods) if not charts else [""] * len(methods)
        charts.append(Chart("", f"{title} ({_PARTS[part]})", (points,), y_names=tuple(names)))

    return Figure(f"{data}: accuracy by method", (tuple(charts),), width=340, height=20 + 22 * len(methods))


def by_sparsity(results: Results, data: str, methods: Sequence[tuple[str, str]]) -> Figure:
    """Recall@20 and NDCG@20 of users grouped by their train interactions into about equally large groups."""
    groups = bounds(results.users.filter(data=data))
    names = tuple(f"{low} to {high}" if low < high else str(low) for low, high in groups)
    width = 0.8 / len(methods)
    charts = []
    for metric, title in METRIC_NAMES.items():
        bars = []
        for number, (method, name) in enumerate(zip(methods, _names(methods), strict=True)):
            shift = (number - (len(methods) - 1) / 2) * width
            values = [group_mean(results, data, method, metric, each) for each in groups]
            bars.append(Series(name, tuple((i + shift, value) for i, value in enumerate(values)), "bars", width=width))
        charts.append(Chart("", "train interactions of the user", tuple(bars), y_label=title, x_names=names))

    return Figure(f"{data}: accuracy by sparsity (test)", (tuple(charts),))


def sensitivity(recipe: BenchRecipe, results: Results, data: str) -> Figure:
    """One panel per sweep: validation metrics by the values of the field, which are chosen on validation, with the
    baseline.
    """
    done = set(results.methods(data))
    charts = []
    for sweep in recipe.sweeps:
        series = []
        for number, backbone in enumerate(recipe.backbones):
            series.append(_sweep_line(results, data, backbone, sweep, 2 * number))
            if (backbone, recipe.baseline) in done:
                level = mean(results.values(data, backbone, recipe.baseline, "recall@20", "val"))
                name = f"{backbone} + {recipe.baseline}"
                series.append(Series(name, ((0, level),), "level", colour=2 * number + 1))
        charts.append(Chart("", sweep.label, tuple(series), x_names=tuple(map(str, sweep.values))))

    # All panels have one scale, so that their heights can be compared.
    heights = [height for chart in charts for each in chart.series for height in _ends(each)]
    low, high = min(heights), max(heights)
    margin = 0.05 * (high - low) or 0.01
    charts = [replace(chart, y_range=(low - margin, high + margin)) for chart in charts]
    charts[0] = replace(charts[0], y_label=f"Recall@20 ({_PARTS['val']})")
    return Figure(f"{data}: sensitivity", (tuple(charts),), width=240)


def _sweep_line(results: Results, data: str, backbone: str, sweep: Sweep, colour: int) -> Series:
    found = [
        (place, results.values(data, backbone, sweep_name(sweep.of, sweep.label, value), "recall@20", "val"))
        for place, value in enumerate(sweep.values)
    ]
    found = [(place, seeds) for place, seeds in found if seeds]
    points = tuple((place, mean(seeds)) for place, seeds in found)
    errors = tuple(_spread(seeds) for _, seeds in found)
    return Series(f"{backbone} + {sweep.of}", points, "marked", y_errors=errors, colour=colour)


def _ends(series: Series) -> list[float]:
    """The lower and the upper ends of the error bars of a series."""
    errors = series.y_errors or (0.0,) * len(series.points)
    return [y + sign * error for (_, y), error in zip(series.points, errors, strict=True) for sign in (-1, 1)]


def parts(before: dict[str, np.ndarray], after: dict[str, np.ndarray], title: str) -> Figure:
    """DaRec's shared and specific parts in two dimensions (t-SNE of cosines), both sides, before and after training.

    Each argument: part (`cf shared`, `text shared`, `cf specific`, `text specific`) -> rows of unit length [n, d].
    Sides with the same width are projected together: they overlap if they are aligned. Sides with different widths have
    one panel each, and nodes have the colours of their text clusters in both: if the backbone has adopted the structure
    of the texts, nodes of one colour are close together. Missing parts are left out.
    """
    groups = _groups(before["text shared"])
    columns = [panel for kind in ("shared", "specific") for panel in _panels(before, kind)]
    rows = []
    for when, vectors in {"before training": before, "after training": after}.items():
        panels = []
        for names in columns:
            projected = _project({name: vectors[name] for name in names})
            sides = [_SIDES.index(name.split()[0]) for name in projected]
            colours = [[side] * len(groups) for side in sides] if len(names) > 1 else [groups.tolist()]
            points = tuple(
                (x, y, colour, "")
                for plane, numbers in zip(projected.values(), colours, strict=True)
                for (x, y), colour in zip(plane.tolist(), numbers, strict=True)
            )
            legend = _SIDES if len(names) > 1 else ()
            panels.append(Scatter(f"{' and '.join(names)}, {when}", points, legend))
        rows.append(tuple(panels))

    return Figure(title, tuple(rows), width=400, height=340)


def _panels(rows: dict[str, np.ndarray], kind: str) -> list[tuple[str, ...]]:
    """The parts of a kind that are plotted together: both sides if they have the same width,
    otherwise each separately.
    """
    names = tuple(f"{side} {kind}" for side in _SIDES if f"{side} {kind}" in rows)
    together = len({rows[name].shape[1] for name in names}) == 1
    return [names] if together else [(name,) for name in names]


def _groups(rows: np.ndarray, count: int = 8) -> np.ndarray:
    """The number of each row's centre after k-means, int64 [n]."""
    points = torch.from_numpy(rows)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        centres = clustering.kmeans(points, clustering.initial_centres(points, count), 20)
    return clustering.nearest(points, centres).numpy()


def _project(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """t-SNE of all rows together, by cosines (van der Maaten and Hinton, 2008)."""
    together = np.concatenate(list(parts.values()))
    perplexity, init = min(30.0, (len(together) - 1) / 3), "pca" if together.shape[1] > 1 else "random"
    points = TSNE(metric="cosine", perplexity=perplexity, init=init, random_state=0).fit_transform(together)
    ends = np.cumsum([len(rows) for rows in parts.values()])[:-1]
    return dict(zip(parts, np.split(points, ends), strict=True))


def bounds(users: pl.DataFrame) -> list[tuple[int, int]]:
    """(smallest, largest) number of train interactions of each group."""
    counts = users.unique(c.USER_INDEX)[c.TRAIN_COUNT].to_numpy()
    cuts = sorted({int(cut) for cut in np.quantile(counts, np.linspace(0, 1, _SLICES + 1)[1:], method="lower")})
    return list(zip([int(counts.min()), *(cut + 1 for cut in cuts[:-1])], cuts, strict=True))


def group_mean(results: Results, data: str, method: tuple[str, str], metric: str, bounds: tuple[int, int]) -> float:
    """Mean of a metric over seeds and over the users of each range of train interactions."""
    rows = results.users.filter(data=data, backbone=method[0], alignment=method[1])
    inside = rows.filter(pl.col(c.TRAIN_COUNT).is_between(*bounds))[metric]
    return float(inside.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def _names(methods: Sequence[tuple[str, str]]) -> list[str]:
    return [" + ".join(method) for method in methods]


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
