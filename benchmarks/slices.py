"""`darec bench slices`: recall by groups of items, by popularity and by age, and the diversity, novelty and coverage of
lists.

Both come from the vectors of finished runs, so nothing is trained.
"""

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

import torch
from safetensors.torch import load_file
from torch.nn import functional

from benchmarks.data import BenchData, train_counts
from benchmarks.runs import MODEL, Run
from benchmarks.tables import markdown
from darec.artifacts.store import Artifact
from darec.common.interactions import Pairs, Representations
from darec.evaluation.metrics import Catalogue
from darec.evaluation.protocol import Ranking, popularity, rank, score, summarise
from darec.evaluation.slices import BOUNDS, age_groups

K = 20
AGES = 3
"""Number of groups of items by age."""
BEYOND = ("diversity", "novelty", "long_tail", "coverage", "gini")

Values = dict[str, float]
Method = tuple[str, str]


def tables(runs: Iterable[tuple[Run, Artifact]]) -> str:
    """Two tables of each data set in Markdown; a value is the mean over the seeds of a method."""
    found: dict[str, dict[Method, list[Values]]] = defaultdict(lambda: defaultdict(list))
    data: dict[str, BenchData] = {}
    for run, artifact in runs:
        state = load_file(artifact.path / MODEL)
        final = Representations.join(state["final.user"], state["final.item"])
        method = (run.entry.backbone, run.entry.alignment)
        data[run.data.name] = run.data
        found[run.data.name][method].append(measure(final, run.data))

    parts = []
    for name, methods in found.items():
        inter = data[name].interactions
        first = popularity(inter.train, inter.n_users, inter.n_items)
        rows = {("", "popularity"): [measure(first, data[name])], **methods}
        by_age = [_table(rows, _age_names(data[name]))] if data[name].ages is not None else []
        parts += [f"### {name}\n", _table(rows, _slice_names(data[name])), *by_age, _table(rows, _beyond_names(rows))]

    return "\n".join(parts)


def measure(final: Representations, data: BenchData) -> Values:
    """Recall@20 of each slice, and the metrics of `BEYOND`, on test.

    Only the items of a slice count as relevant; the lists are those of all items.
    """
    inter = data.interactions
    ranking = rank(final, inter.train, inter.test, K)
    named = (*zip(_slice_names(data), _parts(data), strict=True), *zip(_age_names(data), _age_parts(data), strict=True))
    values = {
        name: score(ranking, part, inter.n_items, (K,), ("recall",)).means()[f"recall@{K}"]
        for name, part in named
        if len(part)
    }
    return values | _beyond(ranking, data)


def _beyond(ranking: Ranking, data: BenchData) -> Values:
    text = functional.normalize(data.text.item.float(), dim=-1) if data.text else None
    catalogue = Catalogue.of(data.interactions, text)
    scores = score(ranking, data.interactions.test, data.interactions.n_items, (K,), catalogue=catalogue)
    values = scores.means() | summarise(ranking, catalogue, (K,))
    return {name: values[f"{name}@{K}"] for name in BEYOND if f"{name}@{K}" in values}


def _parts(data: BenchData) -> list[Pairs]:
    """The test pairs of each slice."""
    test, counts = data.interactions.test, train_counts(data.interactions)[1]
    popular = counts[test.items]
    inside = [(popular >= low) & (popular <= (torch.inf if high is None else high)) for low, high in BOUNDS]
    return [Pairs(test.users[each], test.items[each]) for each in inside]


def _slice_names(data: BenchData) -> list[str]:
    """Train interactions of a slice's items, and how many test pairs it has."""
    names = ["0", *(f"{low} to {high}" if high else f"from {low}" for low, high in BOUNDS[1:])]
    return [f"{name} ({len(part):,} pairs)" for name, part in zip(names, _parts(data), strict=True)]


def _age_bounds(data: BenchData) -> list[tuple[int, int]]:
    return [] if data.ages is None else age_groups(data.ages[data.interactions.test.items], AGES)


def _age_parts(data: BenchData) -> list[Pairs]:
    """The test pairs of each group of items by age."""
    if data.ages is None:
        return []
    test = data.interactions.test
    ages = data.ages[test.items]
    inside = [(ages >= low) & (ages <= high) for low, high in _age_bounds(data)]
    return [Pairs(test.users[each], test.items[each]) for each in inside]


def _age_names(data: BenchData) -> list[str]:
    """Days since the first interaction of a group's items, and how many test pairs it has."""
    return [
        f"{low:,} to {high:,} days ({len(part):,} pairs)"
        for (low, high), part in zip(_age_bounds(data), _age_parts(data), strict=True)
    ]


def _beyond_names(methods: dict[Method, list[Values]]) -> list[str]:
    known = next(iter(methods.values()))[0]
    return [name for name in BEYOND if name in known]


def _table(methods: dict[Method, list[Values]], columns: list[str]) -> str:
    rows = []
    for (backbone, alignment), seeds in methods.items():
        cells = [f"{mean(each[name] for each in seeds):.4f}" if name in seeds[0] else "" for name in columns]
        rows.append([backbone, alignment, str(len(seeds)), *cells])
    return markdown(["backbone", "alignment", "seeds", *columns], rows)
