"""The gate, which decides whether a bundle becomes the current release: pure functions of reports, evidence and
tolerances.

Models are compared on the same test interactions (`darec.serving.evidence`). A metric fails if the challenger is worse
by significantly more than the tolerance: its value and the upper end of the 95% confidence interval of the mean
difference over users are both below `(1 - tolerance) * other`. If another release cannot be measured on this test, the
metrics of the two runs are compared without an interval, and the check says so. The model without text of the same run
is compared by the same rule, if it can be measured.
"""

from collections.abc import Iterator, Sequence

from schemas.release import (
    BundleReport,
    Check,
    Decision,
    Difference,
    Evidence,
    GateConfig,
    IndexReport,
    VectorReport,
)

RULES = 3
"""Increased when the decision for the same bundle and evidence may change. Version 1 compared metrics of different
runs; version 2 did not compare with the model without text.
"""
_NORM_SPREAD = 1e4  # a vector has diverged if the largest norm is more than this multiple of the median
_TEXTS_HARM = (
    " -> add a `search` section, which chooses on validation, or try another prompt or LLM "
    '(in the report: "What the texts are worth")'
)


def decide(
    candidate: BundleReport,
    current: BundleReport | None,
    config: GateConfig,
    evidence: Evidence | None = None,
    earlier: Sequence[BundleReport] = (),
) -> Decision:
    """Whether `candidate` may replace `current` (None: there is no release yet).

    Args:
        candidate: Facts about the bundle to check.
        current: The same facts about the current release.
        config: The tolerances.
        evidence: Comparisons on the same test, and facts about the profiles.
        earlier: Reports of the releases that `gate.floor` compares with if there is no common test.
    """
    evidence = evidence or Evidence()
    checks = (
        *(_sanity(candidate) if config.sanity else ()),
        *_texts(evidence, config),
        _at_least("index recall: items", candidate.item_index.recall, config.index_recall),
        _at_least("index recall: similar", candidate.similar_index.recall, config.index_recall),
        *(_at_least(f"minimum: {name}", candidate.metrics.get(name), limit) for name, limit in config.minimums.items()),
        *(_against(candidate, current, config, evidence) if current else ()),
        *_floor(candidate, config, evidence, earlier),
        *_without_text(config, evidence),
    )
    return Decision(passed=all(check.passed for check in checks), checks=checks, rules=RULES)


def _texts(evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    for stage, texts in evidence.texts.items():
        share = texts.from_metadata / texts.rows if texts.rows else 0.0
        yield _at_most(f"{stage}: share from metadata", share, config.max_fallback_share)
        if config.sanity:
            yield _none(f"{stage}: no empty profile", texts.empty, f"profiles of {stage} that are null or blank")


def _sanity(report: BundleReport) -> Iterator[Check]:
    missing = [name for name, value in report.metrics.items() if value is None]
    yield _none("metrics are numbers", len(missing), f"metrics that are not a number: {', '.join(missing)}")
    for side, vectors in (("users", report.users), ("items", report.items)):
        yield from _sound(side, vectors)
    yield _none("interactions in range", report.seen_out_of_range, "known interactions outside the vocabulary")
    yield _none("vectors belong to their ids", report.misplaced, "users and items whose vector is not that of their id")
    yield _aligned("items", report.item_index, report.items)
    yield _aligned("similar", report.similar_index, report.items)


def _sound(side: str, vectors: VectorReport) -> Iterator[Check]:
    yield _at_least(f"{side}: present", vectors.rows, 1)
    yield _none(f"{side}: finite", vectors.not_finite, f"{side} whose vector holds NaN or infinity")
    yield _none(f"{side}: not zero", vectors.zero, f"{side} with train interactions whose vector is zero")
    bad_ids = vectors.rows - vectors.distinct_ids + vectors.empty_ids
    yield _none(f"{side}: ids", bad_ids, f"{side} with an empty or repeated id")
    yield _at_most(f"{side}: norms", vectors.largest_norm, _NORM_SPREAD * vectors.median_norm)


def _aligned(name: str, index: IndexReport, items: VectorReport) -> Check:
    gap = abs(index.vectors - items.rows)
    return _none(f"index holds every item: {name}", gap, f"items more or fewer in the {name} index")


def _against(candidate: BundleReport, current: BundleReport, config: GateConfig, evidence: Evidence) -> Iterator[Check]:
    for name, tolerance in config.tolerances.items():
        check, allowed = f"against current: {name}", f"tolerance {100 * tolerance:g}%"
        if evidence.current and _measured(evidence, name):
            than = f"current {{}} on the same {evidence.current.users:,} users, {allowed}"
            yield _kept(check, name, evidence.current.metrics.get(name), tolerance, than)
        elif name not in candidate.metrics or name in current.metrics:
            than = f"current {{}} on the test of its own run, {allowed}"
            yield _kept(check, name, _reported(candidate, current, name), tolerance, than)
        else:
            message = f"{name} has no value in the current release"
            yield Check(name=check, passed=True, value=candidate.metrics[name], limit=None, message=message)

    for name, new, old in (
        ("users", candidate.users.rows, current.users.rows),
        ("items", candidate.items.rows, current.items.rows),
        ("interactions", candidate.interactions, current.interactions),
    ):
        yield _at_least(f"size: {name} kept", new, old * (1 - config.shrink))
        yield _at_most(f"size: {name} grown", new, old * (1 + config.growth))


def _floor(
    candidate: BundleReport, config: GateConfig, evidence: Evidence, earlier: Sequence[BundleReport]
) -> Iterator[Check]:
    """Compares with the earlier release that is the best relative to the challenger."""
    for name in config.tolerances:
        check, allowed = f"against the best of {config.best_of_nights} nights: {name}", f"floor {100 * config.floor:g}%"
        if any(name in comparison.metrics for comparison in evidence.best):
            worst = min(evidence.best, key=lambda comparison: _ratio(comparison.metrics.get(name)))
            than = f"{worst.against} {{}} on the same {worst.users:,} users, {allowed}"
            yield _kept(check, name, worst.metrics.get(name), config.floor, than)
        elif not _measured(evidence, name) and any(report.metrics.get(name) is not None for report in earlier):
            best = max(earlier, key=lambda report: report.metrics.get(name) or 0.0)
            than = f"best {{}} on the test of its own run, {allowed}"
            yield _kept(check, name, _reported(candidate, best, name), config.floor, than)


def _without_text(config: GateConfig, evidence: Evidence) -> Iterator[Check]:
    """Compares with the model without text. Metrics without an interval are left out: texts may change the coverage."""
    if config.reference is None or evidence.reference is None:
        return

    hint, compared = _TEXTS_HARM, evidence.reference
    than = f"without text {{}} on the same {compared.users:,} users, gate.reference {100 * config.reference:g}%"
    for name in config.tolerances:
        found = compared.metrics.get(name)
        if found is None or found.high is None:
            continue
        check = _kept(f"against the model without text: {name}", name, found, config.reference, than)
        if not check.passed:
            check, hint = check.model_copy(update={"message": check.message + hint}), ""  # said once
        yield check


def _measured(evidence: Evidence, name: str) -> bool:
    return evidence.current is not None and name in evidence.current.metrics


def _reported(candidate: BundleReport, other: BundleReport, name: str) -> Difference:
    return Difference(challenger=candidate.metrics.get(name), other=other.metrics.get(name))


def _ratio(found: Difference | None) -> float:
    """The ratio of the challenger's value to the other's. Missing values are sorted first."""
    if found is None or found.challenger is None:
        return -1.0
    return found.challenger / found.other if found.other else 1.0


def _kept(check: str, metric: str, found: Difference | None, tolerance: float, than: str) -> Check:
    """Passes unless the challenger is worse by significantly more than the tolerance."""
    if found is None or found.challenger is None:
        return Check(name=check, passed=False, value=None, limit=None, message=f"{metric} was not computed")

    other = found.other or 0.0
    limit = other * (1 - tolerance)
    lower = found.challenger < limit
    highest = found.challenger if found.high is None else other + found.high
    message = f"{metric} {found.challenger:.4f} {'<' if lower else '>='} {limit:.4f} ({than.format(f'{other:.4f}')})"
    passed = highest >= limit
    if lower and passed:
        message += f", within chance: up to {highest:.4f} at 95%"

    return Check(name=check, passed=passed, value=found.challenger, limit=limit, message=message, other=other)


def _at_least(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name=name, passed=False, value=None, limit=limit, message=f"{name} was not computed")
    passed = value >= limit
    message = f"{name}: {_shown(value)} {'>=' if passed else '<'} {_shown(limit)}"
    return Check(name=name, passed=passed, value=value, limit=limit, message=message)


def _at_most(name: str, value: float, limit: float) -> Check:
    passed = value <= limit
    message = f"{name}: {_shown(value)} {'<=' if passed else '>'} {_shown(limit)}"
    return Check(name=name, passed=passed, value=value, limit=limit, message=message)


def _shown(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _none(name: str, count: int, trouble: str) -> Check:
    message = name if count == 0 else f"{count} {trouble}"
    return Check(name=name, passed=count == 0, value=count, limit=0, message=message)
