import math

import pytest

from darec.serving.gate import decide
from schemas.release import (
    BundleReport,
    Comparison,
    Difference,
    Evidence,
    ExportConfig,
    GateConfig,
    IndexReport,
    TextReport,
    VectorReport,
)

GATE = GateConfig()


def vectors(rows, **changes):
    facts = {"distinct_ids": rows, "empty_ids": 0, "not_finite": 0, "zero": 0}
    norms = {"smallest_norm": 0.5, "median_norm": 1.0, "largest_norm": 2.0}
    return VectorReport(**({"rows": rows} | facts | norms | changes))


def index(**changes):
    return IndexReport(**({"kind": "flat", "vectors": 50, "effort": 0, "recall": 1.0, "bytes": 1} | changes))


def report(metrics=None, **changes):
    facts = {"width": 8, "interactions": 1000, "seen_out_of_range": 0, "users": vectors(100), "items": vectors(50)}
    facts |= {"item_index": index(), "similar_index": index(), "config": ExportConfig()}
    values = {"recall@20": 0.2, "ndcg@20": 0.1, "coverage@20": 0.5} | (metrics or {})
    return BundleReport(metrics=values, **(facts | changes))


def without(name):
    whole = report()
    return whole.model_copy(update={"metrics": {key: value for key, value in whole.metrics.items() if key != name}})


REFUSED = {
    "recall fell by a tenth": (report({"recall@20": 0.18}), "against current: recall@20"),
    "ndcg fell by a tenth": (report({"ndcg@20": 0.09}), "against current: ndcg@20"),
    "a compared metric is missing": (without("ndcg@20"), "against current: ndcg@20"),
    "a metric is NaN": (report({"mrr@20": None}), "metrics are numbers"),
    "the compared metric is NaN": (report({"recall@20": None}), "against current: recall@20"),
    "the same few items for everyone": (report({"coverage@20": 0.001}), "minimum: coverage@20"),
    "coverage was not measured": (without("coverage@20"), "minimum: coverage@20"),
    "a user vector is NaN": (report(users=vectors(100, not_finite=1)), "users: finite"),
    "an item vector is infinite": (report(items=vectors(50, not_finite=1)), "items: finite"),
    "a trained user has a zero vector": (report(users=vectors(100, zero=1)), "users: not zero"),
    "an item ran away": (report(items=vectors(50, largest_norm=1e6)), "items: norms"),
    "two users with one id": (report(users=vectors(100, distinct_ids=99)), "users: ids"),
    "an item without id": (report(items=vectors(50, empty_ids=1)), "items: ids"),
    "an item missing in the index": (report(item_index=index(vectors=49)), "index holds every item: items"),
    "an item too many": (report(similar_index=index(vectors=51)), "index holds every item: similar"),
    "the index misses": (report(item_index=index(recall=0.9)), "index recall: items"),
    "the similar index misses": (report(similar_index=index(recall=math.nan)), "index recall: similar"),
    "interactions name unknown items": (report(seen_out_of_range=1), "interactions in range"),
    "a vector under another's id": (report(misplaced=1), "vectors belong to their ids"),
    "no user left": (report(users=vectors(0)), "users: present"),
    "a third of the users vanished": (report(users=vectors(67)), "size: users kept"),
    "half of the interactions vanished": (report(interactions=500), "size: interactions kept"),
    "three times the interactions": (report(interactions=3000), "size: interactions grown"),
}

PASSED = {
    "the same again": report(),
    "a little worse, within tolerance": report({"recall@20": 0.191}),
    "better": report({"recall@20": 0.3, "ndcg@20": 0.2}),
    "a new metric": report({"hit@5": 0.3}),
    "a tenth more users": report(users=vectors(110)),
    "an untrained user with a zero vector": report(users=vectors(100, smallest_norm=0.0)),
}


@pytest.mark.parametrize(("candidate", "failing"), REFUSED.values(), ids=REFUSED)
def test_refused_by_the_check_that_is_meant_for_it(candidate, failing):
    decision = decide(candidate, report(), GATE)
    assert not decision.passed
    assert failing in {check.name for check in decision.failures}
    assert all(check.message in decision.reason for check in decision.failures)


@pytest.mark.parametrize("candidate", PASSED.values(), ids=PASSED)
def test_passed(candidate):
    decision = decide(candidate, report(), GATE)
    assert decision.passed, decision.reason


def test_the_first_release_is_held_to_minimums_but_compared_with_nothing():
    assert decide(report({"recall@20": 0.001}), None, GATE).passed
    assert not decide(report({"coverage@20": 0.0}), None, GATE).passed
    assert not decide(without("coverage@20"), None, GATE).passed


def test_a_report_from_before_vectors_were_compared_with_their_ids_can_still_be_read():
    old = report().model_dump(mode="json")
    del old["misplaced"]
    assert BundleReport.model_validate(old) == report()


def test_a_metric_the_current_release_never_had_cannot_have_fallen():
    assert decide(report(), without("ndcg@20"), GATE).passed


def test_a_fall_of_just_the_tolerance_passes_and_a_hair_more_does_not():
    gate = GateConfig(tolerances={"recall@20": 0.5})
    assert decide(report({"recall@20": 0.1}), report(), gate).passed
    assert not decide(report({"recall@20": 0.0999}), report(), gate).passed


def test_sanity_can_be_switched_off_and_the_rest_stays():
    gate = GateConfig(sanity=False)
    assert decide(report(users=vectors(100, not_finite=1)), report(), gate).passed
    assert not decide(report({"recall@20": 0.1}), report(), gate).passed


def compared(against="r1", users=900, **values):
    metrics = {
        name.replace("_at_", "@"): Difference(**dict(zip(NAMES, each, strict=True))) for name, each in values.items()
    }
    return Comparison(against=against, users=users, pairs=9000, test_users=910, test_pairs=9100, metrics=metrics)


NAMES = ("challenger", "other", "low", "high")
RECALL = GateConfig(tolerances={"recall@20": 0.05})
SAME_TEST = {
    "better on the same test, though the figure of the last run was twice as high": ((0.11, 0.10, 0.0, 0.02), True),
    "within the tolerance": ((0.096, 0.10, -0.005, -0.003), True),
    "beyond the tolerance, within chance": ((0.09, 0.10, -0.02, -0.001), True),
    "beyond the tolerance, just within chance": ((0.09, 0.10, -0.015, -0.005), True),
    "beyond the tolerance and significantly": ((0.09, 0.10, -0.0149, -0.0051), False),
    "far below": ((0.05, 0.10, -0.06, -0.04), False),
    "not a number": ((None, 0.10, None, None), False),
    "the other is not a number": ((0.05, None, None, None), True),
    "no mean over users: beyond the tolerance": ((0.0949, 0.10, None, None), False),
    "no mean over users: within": ((0.0951, 0.10, None, None), True),
    "both hit nothing": ((0.0, 0.0, 0.0, 0.0), True),
}


@pytest.mark.parametrize(("values", "passed"), SAME_TEST.values(), ids=SAME_TEST)
def test_the_same_test_decides_and_not_the_figures_of_two_runs(values, passed):
    evidence = Evidence(current=compared(recall_at_20=values))
    decision = decide(report({"recall@20": 0.1}), report(), RECALL, evidence)
    assert decision.passed == passed, decision.reason
    assert {check.name for check in decision.failures} <= {"against current: recall@20"}


def test_a_refusal_names_value_limit_and_the_other_value():
    evidence = Evidence(current=compared(recall_at_20=(0.12, 0.1949, -0.09, -0.06)))
    decision = decide(report(), report(), RECALL, evidence)
    line = "recall@20 0.1200 < 0.1852 (current 0.1949 on the same 900 users, tolerance 5%)"
    assert decision.reason == line
    [check] = decision.failures
    assert (check.value, check.limit, check.other) == (0.12, pytest.approx(0.185155), 0.1949)


def test_a_fall_within_chance_says_how_far_chance_reaches():
    evidence = Evidence(current=compared(recall_at_20=(0.18, 0.20, -0.03, -0.005)))
    checks = {check.name: check for check in decide(report(), report(), RECALL, evidence).checks}
    message = checks["against current: recall@20"].message
    assert message.endswith("(current 0.2000 on the same 900 users, tolerance 5%), within chance: up to 0.1950 at 95%")


def test_a_metric_that_interactions_alone_do_not_tell_is_taken_by_its_own_night():
    evidence = Evidence(current=compared(ndcg_at_20=(0.2, 0.2, 0, 0)), best=(compared(ndcg_at_20=(0.2, 0.2, 0, 0)),))
    assert decide(report(), report(), RECALL, evidence).passed
    assert "the test of its own run" in decide(report({"recall@20": 0.1}), report(), RECALL, evidence).reason
    floor = decide(report({"recall@20": 0.19}), report(), RECALL, evidence, [report({"recall@20": 0.3})])
    assert floor.reason.endswith("(best 0.3000 on the test of its own run, floor 10%)")
    unknown = GateConfig(tolerances={"recal@20": 0.05})
    assert decide(report(), report(), unknown, evidence).reason == "recal@20 was not computed"


FLOOR = {
    "as good as the best": ([(0.2, 0.2, -0.01, 0.01)], True),
    "a tenth below the best, within chance": ([(0.2, 0.2, -0.01, 0.01), (0.17, 0.2, -0.04, -0.02)], True),
    "a tenth below the best": ([(0.2, 0.2, -0.01, 0.01), (0.16, 0.2, -0.05, -0.03)], False),
    "the worst comparison is not the highest value": ([(0.16, 0.2, -0.05, -0.03), (0.29, 0.3, -0.02, 0)], False),
}


@pytest.mark.parametrize(("others", "passed"), FLOOR.values(), ids=FLOOR)
def test_the_floor_is_the_release_that_leaves_the_challenger_farthest_behind(others, passed):
    best = tuple(compared(f"r{n}", recall_at_20=values) for n, values in enumerate(others))
    evidence = Evidence(current=compared(recall_at_20=(0.2, 0.2, 0, 0)), best=best)
    decision = decide(report(), report(), RECALL, evidence)
    assert decision.passed == passed
    assert passed or decision.reason.endswith("floor 10%)")


WITHOUT_TEXT = {
    "worse, and significantly": ((0.09, 0.10, -0.0149, -0.0051), False),
    "worse, within chance": ((0.09, 0.10, -0.021, 0.001), True),
    "significantly worse, but perhaps within the tolerance": ((0.09, 0.10, -0.0185, -0.0015), True),
    "within the tolerance": ((0.0985, 0.10, -0.002, -0.001), True),
    "better": ((0.11, 0.10, 0.005, 0.015), True),
    "no mean over users": ((0.05, 0.10, None, None), None),
}


@pytest.mark.parametrize("current", [None, report()], ids=["the first release", "a later one"])
@pytest.mark.parametrize(("values", "passed"), WITHOUT_TEXT.values(), ids=WITHOUT_TEXT)
def test_texts_must_not_make_the_model_significantly_worse(current, values, passed):
    evidence = Evidence(reference=compared("reference", recall_at_20=values))
    decision = decide(report(), current, RECALL, evidence)
    found = {check.name: check.passed for check in decision.checks if "without text" in check.name}
    assert found == ({} if passed is None else {"against the model without text: recall@20": passed})
    assert decision.passed == (passed is not False), decision.reason
    assert decide(report(), current, RECALL.model_copy(update={"reference": None}), evidence).passed


def test_without_a_model_without_text_there_is_no_such_check():
    checks = decide(report(), report(), GATE, Evidence()).checks
    assert not [check for check in checks if "without text" in check.name]


def test_a_refusal_for_the_texts_says_once_what_to_do():
    worse = (0.12, 0.1949, -0.09, -0.06)
    evidence = Evidence(reference=compared("reference", ndcg_at_20=worse, recall_at_20=worse))
    reason = decide(report(), report(), GATE, evidence).reason
    line = "recall@20 0.1200 < 0.1910 (without text 0.1949 on the same 900 users, gate.reference 2%)"
    assert reason.startswith(f"{line} -> ") and reason.endswith(f"; {line.replace('recall', 'ndcg')}")
    assert reason.count("-> add a `search` section") == 1 and '"What the texts are worth")' in reason


def test_without_a_common_test_each_run_is_taken_by_its_own_and_the_check_says_so():
    decision = decide(report({"recall@20": 0.18}), report({"recall@20": 0.2}), RECALL, Evidence(why_not="gone"))
    assert decision.reason == "recall@20 0.1800 < 0.1900 (current 0.2000 on the test of its own run, tolerance 5%)"
    earlier = [report({"recall@20": 0.2}), report({"recall@20": 0.25}), without("recall@20")]
    decision = decide(report(), report(), RECALL, Evidence(), earlier)
    assert decision.reason == "recall@20 0.2000 < 0.2250 (best 0.2500 on the test of its own run, floor 10%)"


TEXTS = {
    "all by the LLM": (TextReport(rows=100, from_metadata=0, empty=0), None),
    "a quarter from metadata": (TextReport(rows=100, from_metadata=25, empty=0), None),
    "more": (TextReport(rows=100, from_metadata=26, empty=0), "profile_users: share from metadata: 0.26 > 0.25"),
    "a profile without text": (
        TextReport(rows=100, from_metadata=0, empty=1),
        "1 profiles of profile_users that are null or blank",
    ),
    "no rows": (TextReport(rows=0, from_metadata=0, empty=0), None),
}


@pytest.mark.parametrize(("texts", "reason"), TEXTS.values(), ids=TEXTS)
def test_profiles_are_looked_at_for_the_first_release_too(texts, reason):
    decision = decide(report(), None, GATE, Evidence(texts={"profile_users": texts}))
    assert (None if decision.passed else decision.reason) == reason
