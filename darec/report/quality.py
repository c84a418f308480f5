"""Headline, metrics, training curves and slices: the quality of the model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from darec.artifacts import files
from darec.common.charts import Chart, Series
from darec.common.errors import DarecError
from darec.report.content import Headline, MetricRow, Metrics, SliceRow, Slices, TextGain, TextGains
from darec.report.source import Source
from darec.serving.releases import Releases
from schemas.consistency import METRICS
from schemas.release import Comparison, Evidence
from schemas.reports import ChoiceReport, SliceReport, TrainReport

_ORDER = METRICS
_POINTS = 300  # points per line; a chart cannot show more
_RARITIES = {0: "no train interaction (new)", 1: "1 to 5 (rare)", 6: "6 to 20", 21: "21 or more"}
_NAMES = {"train": "this model", "train_reference": "without text"}


def headline(source: Source) -> Headline:
    """The headline: the release and its state."""
    last = list(source.artifacts.values())[-1]
    release = source.release
    if release is None:
        reason = f"the run ended at {last.stage}, before the gate"
        return Headline(source.name, "not gated", False, reason, (), None, last.manifest.created, {})

    current = Releases(source.store.root).current()
    report = release.report
    return Headline(
        name=release.id,
        state=release.state.replace("_", " "),
        current=current is not None and current.id == release.id,
        reason=release.decision.reason,
        checks=release.decision.checks,
        judged_against=release.judged_against,
        made=release.created,
        sizes={"users": report.users.rows, "items": report.items.rows, "interactions": report.interactions},
        is_refitted=report.trained_on == "all",
    )


def metrics(source: Source) -> Metrics:
    """Test metrics with those of the model without text and of popularity, and of other releases as measured by
    the gate.

    Metrics that other runs measured on other tests are not shown.
    """
    found = source.metrics
    columns = {"this model": found.test}
    if found.reference is not None:
        columns["without text"] = found.reference
    if found.before_reranking is not None:
        columns["before reranking"] = found.before_reranking
    columns["popularity"] = found.popularity

    p_values = {name: test.wilcoxon for name, test in found.significance.items()}
    rows = [
        MetricRow(name, tuple(each.get(name) for each in columns.values()), p_values.get(name))
        for name in sorted(found.test, key=_rank)
    ]

    cutoff = largest_cutoff(found.test)
    main = tuple(row for row in rows if _cutoff(row.name) == cutoff)
    others = tuple(row for row in rows if row not in main)
    evidence = source.release.evidence if source.release else Evidence()
    return Metrics(
        tuple(columns),
        main,
        others,
        tuple(_compared(evidence)),
        evidence.why_not,
        choice=_choice(source),
        candidates=_candidates(found.candidates or {}),
    )


def _choice(source: Source) -> str:
    if "choose" not in source.artifacts:
        return ""
    found = ChoiceReport.model_validate(source.artifacts["choose"].manifest.report)
    return f"{found.remarks[0]}." if found.remarks else f"Chosen: {found.name}."


def _candidates(found: Mapping[str, float]) -> str:
    """The comparison of lists from an index with exact ones in words; empty where all items were ranked."""
    name = next((name for name in found if f"exact {name}" in found), None)
    if name is None:
        return ""
    recalls = f"{name} is {found[name]:.4f} and exactly {found[f'exact {name}']:.4f}"
    shares = f"{found['found']:.1%} of the exact lists of {found['users']:,.0f} sampled users"
    return f"The items are those that an index finds: {shares}, of which {recalls}."


def _compared(evidence: Evidence) -> Iterator[tuple[str, Comparison]]:
    """The release in production first, then earlier ones."""
    if evidence.current:
        yield f"{evidence.current.against}, then in production", evidence.current
    yield from ((f"{comparison.against}, earlier", comparison) for comparison in evidence.best)
    if evidence.reference:
        yield "without text", evidence.reference


def curves(source: Source) -> tuple[Chart, ...]:
    """Validation metrics, then the loss terms, over the epochs, with the model without text."""
    histories = {
        file.stage: source.read(file).drop_nulls("value")
        for file in (files.HISTORY, files.REFERENCE_HISTORY)
        if source.has(file.stage)
    }
    if "train" not in histories:
        source.artifact("train")  # raises an error with the reason
    names = histories["train"]["name"].unique(maintain_order=True).to_list()
    wanted = [name for kind in ("val/", "loss/") for name in names if name.startswith(kind)]
    best = TrainReport.model_validate(source.artifact("train").manifest.report).best_epoch

    return tuple(_chart(name, histories, best) for name in wanted)


def text_gains(source: Source) -> TextGains:
    """Recall with and without text, of new, rare and warm items, with intervals."""
    found = source.metrics
    if found.reference is None:
        raise DarecError("the recipe uses no text")
    parts = [part for part in found.slices if part.side == "item rarity"]
    if not parts:
        raise DarecError("version 0.1 did not measure it; `darec run --force evaluate` does")

    name = f"recall@{largest_cutoff(found.test)}"
    rows = tuple(_text_gain(part, name) for part in parts)
    models = found.test, found.reference, found.popularity
    overall = found.significance.get(name)
    interval = overall.interval if overall else None
    pairs = sum(part.pairs for part in parts)
    everything = TextGain("all items", pairs, tuple(each.get(name) for each in models), _both(interval))
    coverage = tuple(each.get(f"coverage@{largest_cutoff(found.test)}") for each in models)
    return TextGains(name, (everything, *rows), _verdict((everything, *rows)), coverage if any(coverage) else ())


def _text_gain(part: SliceReport, name: str) -> TextGain:
    label = f"items with {_RARITIES[part.low]}"
    others = (part.others.get(model, {}).get(name) for model in ("reference", "popularity"))
    return TextGain(label, part.pairs, (part.metrics.get(name), *others), part.gain)


def _both(interval: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
    low, high = interval or (None, None)
    return None if low is None or high is None else (low, high)


def _verdict(rows: Sequence[TextGain]) -> str:
    """In which groups the interval does not include 0."""
    better, worse = (
        [row.group for row in rows if row.interval and sign * row.interval[side] > 0]
        for sign, side in ((1, 0), (-1, 1))
    )
    if not better and not worse:
        return "No group has a significant difference: its interval includes 0 in each of them."
    parts = [f"{word} for {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    return f"With text the model is significantly {' and '.join(parts)}; in the other groups the interval includes 0."


def slices(source: Source) -> Slices:
    """Metrics by users' activity, and by items' popularity and age."""
    found = source.metrics.slices
    if not found:
        raise DarecError("no user has test interactions")

    cutoff = largest_cutoff(found[0].metrics)
    shown = tuple(name for name in sorted(found[0].metrics, key=_rank) if _cutoff(name) == cutoff)
    sides = [
        tuple(_slice_row(part, shown) for part in found if part.side == side) for side in ("user", "item", "item age")
    ]
    return Slices(shown, *sides)


def _chart(name: str, histories: dict[str, pl.DataFrame], best: int | None) -> Chart:
    series = [Series(_NAMES[stage], _points(table.filter(name=name))) for stage, table in histories.items()]
    kind, _, term = name.partition("/")
    title = f"validation {term}" if kind == "val" else f"loss: {term}"
    return Chart(title, "epoch", tuple(each for each in series if each.points), best)


def _points(rows: pl.DataFrame) -> tuple[tuple[float, float], ...]:
    step = -(-rows.height // _POINTS) or 1
    thinned = rows.gather_every(step)
    return tuple(zip(thinned["epoch"].cast(pl.Float64).to_list(), thinned["value"].to_list(), strict=True))


def _slice_row(part: SliceReport, shown: tuple[str, ...]) -> SliceRow:
    low, high = part.low, part.high
    group = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    reference = part.others.get("reference", {}).get(shown[0])
    return SliceRow(group, part.users, part.pairs, {name: part.metrics.get(name) for name in shown}, reference)


def _rank(name: str) -> tuple[int, int, str]:
    """Sort key: common metrics first, small cutoffs before large ones."""
    kind = name.partition("@")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER), _cutoff(name), kind


def _cutoff(name: str) -> int:
    return int(name.rpartition("@")[2])


def largest_cutoff(names: Iterable[str]) -> int:
    """The largest cutoff k of metrics such as `recall@k`."""
    return max(map(_cutoff, names))
