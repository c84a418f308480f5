"""`darec bench slices`: recall by groups of items, by popularity and by age, and the diversity, novelty, coverage and
popularity bias of lists.

Both come from the vectors of finished runs, so nothing is trained.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from benchmarks.data import BenchData, train_counts
from benchmarks.runs import MODEL, Run
from benchmarks.tables import Method, markdown
from darec.artifacts.store import Artifact
from darec.common.interactions import Pairs, Representations
from darec.evaluation.metrics import Catalogue
from darec.evaluation.protocol import Ranking, popularity, rank, score, summarise
from darec.evaluation.slices import BOUNDS, age_groups

K = 20
AGES = 3
"""Number of groups of items by age."""
BEYOND = ("diversity", "novelty", "long_tail", "calibration", "coverage", "gini")

Values = dict[str, float]


def tables(runs: Iterable[tuple[Run, Artifact]]) -> str:
    """Tables of each data set in Markdown; a value is the mean over the seeds of a method."""
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
        slices = [each for each in (_by_popularity(data[name]), _by_age(data[name])) if each]
        parts += [f"### {name}\n", *(_table(rows, [*each]) for each in slices), _table(rows, _beyond_names(rows))]

    return "\n".join(parts)


def measure(final: Representations, data: BenchData) -> Values:
    """Recall@20 of each slice, and the metrics of `BEYOND`, on test.

    Only the items of a slice count as relevant; the lists are those of all items.
    """
    inter = data.interactions
    ranking = rank(final, inter.train, inter.test, K)
    slices = _by_popularity(data) | _by_age(data)
    values = {
        name: score(ranking, part, inter.n_items, (K,), ("recall",)).means()[f"recall@{K}"]
        for name, part in slices.items()
        if len(part)
    }
    return values | _beyond(ranking, data)


def _beyond(ranking: Ranking, data: BenchData) -> Values:
    text = functional.normalize(data.text.item.float(), dim=-1) if data.text else None
    catalogue = Catalogue.of(data.interactions, text)
    scores = score(ranking, data.interactions.test, data.interactions.n_items, (K,), catalogue=catalogue)
    values = scores.means() | summarise(ranking, catalogue, (K,))
    return {name: values[f"{name}@{K}"] for name in BEYOND if f"{name}@{K}" in values}


def _by_popularity(data: BenchData) -> dict[str, Pairs]:
    """The test pairs of each slice, by the train interactions of its items."""
    counts = train_counts(data.interactions)[1]
    names = ("0", *(f"{low} to {high}" if high else f"from {low}" for low, high in BOUNDS[1:]))
    bounds = [(low, int(counts.max()) if high is None else high) for low, high in BOUNDS]
    return _grouped(data.interactions.test, counts, bounds, names)


def _by_age(data: BenchData) -> dict[str, Pairs]:
    """The test pairs of each slice, by the days since the first interaction of its items; none without timestamps."""
    if data.ages is None:
        return {}
    bounds = age_groups(data.ages[data.interactions.test.items], AGES)
    names = [f"{low:,} to {high:,} days" for low, high in bounds]
    return _grouped(data.interactions.test, data.ages, bounds, names)


def _grouped(test: Pairs, values: Tensor, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> dict[str, Pairs]:
    """The pairs whose items have values from `low` to `high`, by name and number of pairs."""
    found, value = {}, values[test.items]
    for name, (low, high) in zip(names, bounds, strict=True):
        inside = (value >= low) & (value <= high)
        part = Pairs(test.users[inside], test.items[inside])
        found[f"{name} ({len(part):,} pairs)"] = part
    return found


def _beyond_names(methods: dict[Method, list[Values]]) -> list[str]:
    known = next(iter(methods.values()))[0]
    return [name for name in BEYOND if name in known]


def _table(methods: dict[Method, list[Values]], columns: list[str]) -> str:
    rows = []
    for (backbone, alignment), seeds in methods.items():
        cells = [f"{mean(each[name] for each in seeds):.4f}" if name in seeds[0] else "" for name in columns]
        rows.append([backbone, alignment, str(len(seeds)), *cells])
    return markdown(["backbone", "alignment", "seeds", *columns], rows)
