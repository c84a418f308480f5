"""Result tables in Markdown."""

from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.results import Results
from darec.evaluation.significance import compare

_COLUMNS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")
_TESTED = ("recall@20", "ndcg@20")

Method = tuple[str, str]
"""Backbone and alignment."""


def joint(results: Results, data: Sequence[str], methods: Sequence[Method]) -> str:
    """All methods on all data sets: mean ± sample standard deviation over seeds, of recall and NDCG on test.

    The best of each data set is bold, as are values with the same four digits. The number of seeds of each value is
    shown if it is not the same everywhere. A method without a finished run has no row.
    """
    metrics = _main(results)
    found = [[[results.values(name, *method, each) for each in metrics] for method in methods] for name in data]
    seeds = {len(values) for column in found for cell in column for values in cell if values}
    columns = [_column(column, counted=len(seeds) > 1) for column in found]
    rows = [[*method, *cells] for method, *cells in zip(methods, *columns, strict=True) if any(cells)]

    caption = f"{' / '.join(map(_short, metrics))} on test, the best of each data set in bold; "
    caption += "the number of seeds in brackets" if len(seeds) > 1 else f"seeds: {max(seeds)}"
    return f"{caption}\n\n{markdown(['backbone', 'alignment', *data], rows)}"


def _main(results: Results) -> tuple[str, ...]:
    """Recall and NDCG at 20, or at the largest cutoff if 20 is none of the grid's."""
    if set(_TESTED) <= set(results.users.columns):
        return _TESTED
    cutoff = max(int(name.partition("@")[2]) for name in results.users.columns if name.startswith("recall@"))
    return f"recall@{cutoff}", f"ndcg@{cutoff}"


def _column(cells: list[list[list[float]]], counted: bool) -> list[str]:
    """The cells of one data set, each from the values of every metric by seed; empty where there are none."""
    best = [max(_shown(values) for values in metric if values) for metric in zip(*cells, strict=True)]
    found = []
    for cell in cells:
        parts = [_bold(values, top) for values, top in zip(cell, best, strict=True) if values]
        found.append(" / ".join(parts) + (f" ({len(cell[0])})" if parts and counted else ""))
    return found


def _bold(values: list[float], best: str) -> str:
    return f"**{_spread(values)}**" if _shown(values) == best else _spread(values)


def table(results: Results, data: str, against: str) -> str:
    """All methods on a data set: mean ± sample standard deviation over seeds, on test.

    The last columns compare with the alignment `against` on the same backbone: relative change of the mean, and p of
    Student's paired t-test over users, each user's values being means over seeds.
    """
    columns = [name for name in _COLUMNS if name in results.users.columns]
    tested = [name for name in _TESTED if name in columns]
    head = ["backbone", "alignment", "seeds", *map(_short, columns), *(f"{_short(n)} vs {against}" for n in tested)]
    rows = [_row(results, data, method, columns, tested, against) for method in results.methods(data)]
    return markdown(head, rows)


def _row(results: Results, data: str, method: Method, columns: list[str], tested: list[str], against: str) -> list[str]:
    values = [results.values(data, *method, name) for name in columns]
    reference = (method[0], against)
    if method[1] == against or reference not in results.methods(data):
        comparisons = ["" for _ in tested]
    else:
        comparisons = _compare(results, data, method, reference, tested)
    return [*method, str(len(values[0])), *map(_spread, values), *comparisons]


def _compare(results: Results, data: str, method: Method, reference: Method, tested: list[str]) -> list[str]:
    ours, theirs = (results.per_user(data, *each, tested) for each in (method, reference))
    found = compare(ours, theirs)
    cells = []
    for name in tested:
        base = float(theirs.values[name].mean())
        change = f"{found[name].difference / base:+.1%}" if base else f"{found[name].difference:+.4f}"
        cells.append(f"{change} (p {_p(found[name].t_test)})")
    return cells


def costs(results: Results, data: str) -> str:
    """Validation Recall@20, epochs and training seconds of each method, means over seeds."""
    rows = []
    for backbone, alignment in results.methods(data):
        runs = results.runs.filter(data=data, backbone=backbone, alignment=alignment, part="val", metric="recall@20")
        epochs, best, seconds = (float(runs[name].mean()) for name in ("epochs", "best_epoch", "train_seconds"))  # type: ignore[arg-type]
        validation = _spread(results.values(data, backbone, alignment, "recall@20", "val"))
        row = [backbone, alignment, validation, f"{best:.0f}", f"{epochs:.0f}", f"{seconds:.0f}"]
        rows.append([*row, f"{seconds / epochs:.2f}"])

    head = ["backbone", "alignment", "validation R@20", "best epoch", "epochs", "seconds", "seconds an epoch"]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _short(metric: str) -> str:
    return metric.replace("recall", "R").replace("ndcg", "N")


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return _shown(values) + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _shown(values: list[float]) -> str:
    return f"{mean(values):.4f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001" if value >= 1e-6 else f"{value:.0e}"
