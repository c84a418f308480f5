"""Two models on the same test interactions: checked by hand, and against a plain loop."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.common.errors import DarecError
from darec.serving.comparison import ChallengerRun, Model
from schemas.training import EvaluateConfig

EVALUATE = EvaluateConfig(device="cpu")


def model(name, users: dict, items: dict, train=None) -> Model:
    """From external id to vector; the order of the dicts is the model's own numbering."""

    def side(column, vectors):
        rows = np.array(list(vectors.values()), np.float32)
        return pl.LazyFrame(
            {column: list(vectors), "vector": pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1]))}
        )

    return Model(name, side("user_id", users), side("item_id", items), None if train is None else pairs(train).lazy())


def pairs(rows) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"user_index": pl.Int32, "item_index": pl.Int32}, orient="row")


# One dimension: a user ranks items from the greatest number down.
NEW = model("new", {"ann": [1], "bob": [1], "eve": [1]}, {"a": [4], "b": [3], "c": [2], "new": [9]})
OLD = model("old", {"zoe": [1], "bob": [1], "ann": [1]}, {"c": [9], "gone": [8], "b": [3], "a": [1]})
TRAIN = pairs([(0, 0), (1, 3), (2, 0)])  # ann knows a; bob knows the new item; eve knows a
TEST = pairs([(0, 1), (0, 3), (1, 0), (2, 1)])  # ann: b and the new item; bob: a; eve: b


def test_both_rank_what_both_know_and_nothing_else_counts():
    found = ChallengerRun(NEW, TRAIN, TEST).compare(OLD, ["recall@1", "recall@2", "coverage@1"], EVALUATE, 100)
    assert (found.users, found.pairs, found.test_users, found.test_pairs) == (2, 2, 3, 4)
    # Common items a, b, c; the new item, though its score is the greatest, is no candidate. Ann (without a): new model
    # b, c and old model c, b. Bob: a, b, c and c, b, a. The relevant ones are ann's b and bob's a.
    values = {name: (each.challenger, each.other) for name, each in found.metrics.items()}
    assert values == {
        "recall@1": (1.0, 0.0),
        "recall@2": (1.0, 0.5),
        "coverage@1": (pytest.approx(2 / 3), pytest.approx(1 / 3)),
    }
    assert (found.metrics["recall@1"].low, found.metrics["recall@1"].high) == (1.0, 1.0)
    assert (found.metrics["coverage@1"].low, found.metrics["coverage@1"].high) == (None, None)


def test_what_the_other_was_trained_on_is_no_test_of_it():
    seen_by_old = model(
        "old", {"zoe": [1], "bob": [1], "ann": [1]}, {"c": [9], "gone": [8], "b": [3], "a": [1]}, [(1, 3), (0, 2)]
    )
    found = ChallengerRun(NEW, TRAIN, TEST).compare(seen_by_old, ["recall@1"], EVALUATE, 100)
    assert (found.users, found.pairs) == (1, 1), "bob's a was the old model's train; zoe's b says nothing of ann's"


@pytest.mark.parametrize("metrics", [["recall@1"], [], ["recal@1", "recall@0", "recall", "recall@1.5"]])
def test_models_that_share_no_test_or_no_metric_are_not_compared(metrics):
    strangers = model("other", {"zoe": [1]}, {"a": [1]})
    assert (
        ChallengerRun(NEW, TRAIN, TEST).compare(strangers if metrics == ["recall@1"] else OLD, metrics, EVALUATE, 9)
        is None
    )


def test_a_model_that_is_not_finite_is_not_ranked():
    broken = model("new", {"ann": [1], "bob": [1]}, {"a": [np.nan], "b": [3], "c": [2]})
    with pytest.raises(DarecError, match="not finite"):
        ChallengerRun(broken, pairs([]), pairs([(0, 0), (1, 1)])).compare(OLD, ["recall@1"], EVALUATE, 9)


def test_many_users_are_sampled_evenly():
    users = {f"u{n:04d}": [1] for n in range(1000)}
    big = model("new", users, {"a": [2], "b": [1]})
    test = pairs((n, n % 2) for n in range(1000))
    found = ChallengerRun(big, pairs([]), test).compare(big, ["recall@1"], EVALUATE, 100)
    assert (found.users, found.pairs, found.test_users) == (100, 100, 1000)
    assert 0.3 < found.metrics["recall@1"].challenger < 0.7


def naive_recall(new, old, train, test, k):
    """Per-user recall of both by sets and sorting, for users and items named by their ids."""
    users, items = [sorted(set(new[side]) & set(old[side])) for side in (0, 1)]
    values = []
    for user in users:
        relevant = {item for who, item in test if who == user and item in items}
        if not relevant:
            continue
        unseen = [item for item in items if (user, item) not in train]
        row = []
        for vectors in (new, old):
            best = sorted(unseen, key=lambda item: -float(np.dot(vectors[0][user], vectors[1][item])))[:k]
            row.append(len(relevant & set(best)) / len(relevant))
        values.append(row)
    return np.mean(values, axis=0) if values else None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 4))
def test_equals_a_plain_loop_over_ids(seed, k):
    generator = np.random.default_rng(seed)

    def vectors(prefix, size):
        chosen = generator.permutation(size)[: generator.integers(2, size + 1)]
        return {f"{prefix}{n}": generator.standard_normal(3) for n in chosen}

    new, old = ((vectors("u", 6), vectors("i", 7)) for _ in range(2))
    names = [(user, item) for user in new[0] for item in new[1]]
    draw = generator.random(len(names))
    train = {name for name, value in zip(names, draw, strict=True) if value < 0.3}
    test = {name for name, value in zip(names, draw, strict=True) if 0.3 <= value < 0.5}
    numbers = [{name: place for place, name in enumerate(side)} for side in new]
    by_number = [pairs((numbers[0][u], numbers[1][i]) for u, i in part) for part in (train, test)]
    found = ChallengerRun(model("new", *new), *by_number).compare(model("old", *old), [f"recall@{k}"], EVALUATE, 99)
    expected = naive_recall(new, old, train, test, k)
    if found is None:
        assert expected is None
    else:
        metric = found.metrics[f"recall@{k}"]
        assert (metric.challenger, metric.other) == pytest.approx(tuple(expected))
