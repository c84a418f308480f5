"""The gate between a bundle and production: pure functions of two reports and the tolerances."""

from collections.abc import Iterator

from schemas.release import BundleReport, Check, Decision, GateConfig, IndexReport, VectorReport

_NORM_SPREAD = 1e4  # a largest norm so many times the median is a vector that ran away


def decide(candidate: BundleReport, current: BundleReport | None, config: GateConfig) -> Decision:
    """Whether `candidate` may replace `current` (None: there is no release yet)."""
    checks = (
        *(_sanity(candidate) if config.sanity else ()),
        _at_least("index recall: items", candidate.item_index.recall, config.index_recall),
        _at_least("index recall: similar", candidate.similar_index.recall, config.index_recall),
        *(_at_least(f"minimum: {name}", candidate.metrics.get(name), limit) for name, limit in config.minimums.items()),
        *(_against(candidate, current, config) if current else ()),
    )
    return Decision(passed=all(check.passed for check in checks), checks=checks)


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


def _against(candidate: BundleReport, current: BundleReport, config: GateConfig) -> Iterator[Check]:
    for name, tolerance in config.tolerances.items():
        yield _kept(name, candidate.metrics.get(name), current.metrics.get(name), tolerance)
    for name, new, old in (
        ("users", candidate.users.rows, current.users.rows),
        ("items", candidate.items.rows, current.items.rows),
        ("interactions", candidate.interactions, current.interactions),
    ):
        yield _at_least(f"size: {name} kept", new, old * (1 - config.shrink))
        yield _at_most(f"size: {name} grown", new, old * (1 + config.growth))


def _kept(metric: str, new: float | None, old: float | None, tolerance: float) -> Check:
    """`new` against `old` less the tolerance; a metric that only the candidate has can't have fallen."""
    name = f"against current: {metric}"
    if new is not None and old is None:
        message = f"{metric} has no value in the current release"
        return Check(name=name, passed=True, value=new, limit=None, message=message)
    return _at_least(name, new, (old or 0.0) * (1 - tolerance))


def _at_least(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name=name, passed=False, value=None, limit=limit, message=f"{name} was not measured")
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
