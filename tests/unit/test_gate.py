import math

import pytest

from darec.serving.gate import decide
from schemas.release import BundleReport, ExportConfig, GateConfig, IndexReport, VectorReport

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
