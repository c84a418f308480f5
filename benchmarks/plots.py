"""Plots of a benchmark's results, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from benchmarks.grid import sweep_name
from benchmarks.results import Results
from darec.model import clustering
from schemas import columns as c
from schemas.bench import BenchRecipe, Sweep

mpl.use("Agg")
METRIC_NAMES = {"recall@20": "Recall@20", "ndcg@20": "NDCG@20"}
_PARTS = {"val": "validation", "test": "test"}
_SLICES = 4
_SIDES = {"cf": "tab:blue", "text": "tab:orange"}


def plot_all(recipe: BenchRecipe, results: Results, folder: Path) -> list[Path]:
    """Writes all plots that the results allow: accuracy, sparsity slices, and a plot for each data set with sweeps."""
    folder.mkdir(parents=True, exist_ok=True)
    swept = {sweep_name(sweep.of, sweep.label, value) for sweep in recipe.sweeps for value in sweep.values}
    written = []
    for data in results.runs["data"].unique(maintain_order=True):
        methods = [method for method in results.methods(data) if method[1] not in swept]
        if methods:
            written.append(save(accuracy(results, data, methods, recipe.shown), folder / f"{data}-accuracy.png"))
        if methods and recipe.shown == "test":
            written.append(save(by_sparsity(results, data, methods), folder / f"{data}-sparsity.png"))
        if recipe.sweeps and swept & {alignment for _, alignment in results.methods(data)}:
            written.append(save(sensitivity(recipe, results, data), folder / f"{data}-sensitivity.png"))

    return written


def accuracy(results: Results, data: str, methods: Sequence[tuple[str, str]], part: str = "test") -> Figure:
    """One point per method, with the standard deviation over seeds."""
    figure = Figure(figsize=(11, 1.2 + 0.36 * len(methods)), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRIC_NAMES.items(), strict=True):
        values = [results.values(data, *method, metric, part) for method in methods]
        means, spreads = [mean(each) for each in values], [_spread(each) for each in values]
        for row, (value, spread, colour) in enumerate(zip(means, spreads, _colours(methods), strict=True)):
            axes.errorbar(value, row, xerr=spread, fmt="o", color=colour, capsize=3)
            axes.text(value + spread, row, f"  {value:.4f}", va="center", fontsize=8)
        axes.set_yticks(range(len(methods)), _labels(methods))
        axes.set_xlabel(f"{title} ({_PARTS[part]})")
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.25)

    figure.axes[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(f"{data}: accuracy by method")
    return figure


def by_sparsity(results: Results, data: str, methods: Sequence[tuple[str, str]]) -> Figure:
    """Recall@20 and NDCG@20 of users grouped by their train interactions into about equally large groups."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    groups = bounds(results.users.filter(data=data))
    names = [f"{low} to {high}" if low < high else str(low) for low, high in groups]
    for axes, (metric, title) in zip(figure.subplots(1, 2), METRIC_NAMES.items(), strict=True):
        width = 0.8 / len(methods)
        for number, (method, colour) in enumerate(zip(methods, _colours(methods), strict=True)):
            values = [group_mean(results, data, method, metric, each) for each in groups]
            place = np.arange(len(groups)) + (number - (len(methods) - 1) / 2) * width
            axes.bar(place, values, width, color=colour, label=" + ".join(method))
        axes.set_xticks(range(len(groups)), names)
        axes.set_xlabel("train interactions of the user")
        axes.set_ylabel(f"{title} (test)")

    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)  # type: ignore[arg-type]
    figure.suptitle(f"{data}: accuracy by sparsity")
    return figure


def sensitivity(recipe: BenchRecipe, results: Results, data: str) -> Figure:
    """One panel per sweep: validation metrics by the values of the field, which are chosen on validation, with the
    baseline.
    """
    figure = Figure(figsize=(3.8 * len(recipe.sweeps), 3.8), layout="constrained")
    done = set(results.methods(data))
    for axes, sweep in zip(
        figure.subplots(1, len(recipe.sweeps), sharey=True, squeeze=False)[0], recipe.sweeps, strict=True
    ):
        for backbone in recipe.backbones:
            _sweep_lines(axes, results, data, backbone, sweep)
            if (backbone, recipe.baseline) in done:
                level = mean(results.values(data, backbone, recipe.baseline, "recall@20", "val"))
                axes.axhline(level, color="grey", linestyle="--", label=f"{backbone} + {recipe.baseline}")
        axes.set_xlabel(sweep.label)

    figure.axes[0].set_ylabel(f"Recall@20 ({_PARTS['val']})")
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"{data}: sensitivity")
    return figure


def _sweep_lines(axes: Axes, results: Results, data: str, backbone: str, sweep: Sweep) -> None:
    names = {value: sweep_name(sweep.of, sweep.label, value) for value in sweep.values}
    points = {value: results.values(data, backbone, name, "recall@20", "val") for value, name in names.items()}
    points = {value: seeds for value, seeds in points.items() if seeds}
    places = range(len(points))
    means, spreads = [mean(seeds) for seeds in points.values()], [_spread(seeds) for seeds in points.values()]
    axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, label=f"{backbone} + {sweep.of}")
    axes.set_xticks(places, [str(value) for value in points])


def parts(before: dict[str, np.ndarray], after: dict[str, np.ndarray], title: str) -> Figure:
    """DaRec's shared and specific parts in two dimensions (t-SNE of cosines), both sides, before and after training.

    Each argument: part (`cf shared`, `text shared`, `cf specific`, `text specific`) -> rows of unit length [n, d].
    Sides with the same width are projected together: they overlap if they are aligned. Sides with different widths have
    one panel each, and nodes have the colours of their text clusters in both: if the backbone has adopted the structure
    of the texts, nodes of one colour are close together. Missing parts are left out.
    """
    groups = _groups(before["text shared"])
    columns = [panel for kind in ("shared", "specific") for panel in _panels(before, kind)]
    figure = Figure(figsize=(4.5 * len(columns), 8.4), layout="constrained")
    panels = figure.subplots(2, len(columns), squeeze=False)
    for row, (when, rows) in enumerate({"before training": before, "after training": after}.items()):
        for axes, names in zip(panels[row], columns, strict=True):
            for name, points in _project({name: rows[name] for name in names}).items():
                colour = [_SIDES[name.split()[0]]] if len(names) > 1 else mpl.colormaps["tab10"](groups)
                axes.scatter(*points.T, s=6, alpha=0.6, linewidths=0, c=colour, label=name)
            axes.set_title(f"{' and '.join(names)}, {when}")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0 and len(names) > 1:
                axes.legend(markerscale=4)

    figure.suptitle(title)
    return figure


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


def _labels(methods: Sequence[tuple[str, str]]) -> list[str]:
    return [" + ".join(method) for method in methods]


def _colours(methods: Sequence[tuple[str, str]]) -> list[Any]:
    return [mpl.colormaps["tab20"](number % 20) for number in range(len(methods))]


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def save(figure: Figure, path: Path) -> Path:
    """Writes `figure` and returns its path."""
    figure.savefig(path, dpi=130)
    return path
