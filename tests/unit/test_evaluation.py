import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranx import Qrels, Run
from ranx import evaluate as ranx_evaluate
from scipy import stats
from torch.nn import functional

from darec.common.errors import DarecError
from darec.common.interactions import Interactions, ItemLists, Pairs, Representations
from darec.evaluation import longest_first, protocol
from darec.evaluation.protocol import Matches
from darec.evaluation.ranking import MostPopular, Ranker
from darec.evaluation.report import evaluate_model, report
from darec.evaluation.significance import compare, interval
from darec.evaluation.slices import slices
from darec.serving import candidates
from darec.serving.candidates import IndexRanker, LargeRanker, ranker_for
from schemas import columns as c
from schemas.training import EvaluateConfig
from stages.evaluate import item_ages

USERS, ITEMS, CUTOFFS = 60, 90, (1, 5, 20)


@pytest.fixture(scope="module")
def case():
    """Distinct pairs, a tenth of users without a test item, random vectors."""
    generator = np.random.default_rng(3)
    label = generator.choice(4, size=(USERS, ITEMS), p=[0.8, 0.1, 0.04, 0.06])
    label[::10][label[::10] == 3] = 0
    train, val, test = (Pairs.of(*np.nonzero(label == part)) for part in (1, 2, 3))
    final = Representations(torch.from_numpy(generator.standard_normal((USERS + ITEMS, 8))).float(), USERS)
    return Interactions(USERS, ITEMS, train, val, test), final


def reference(data, final, k):
    """The protocol written out in loops, in float64."""
    train, test = ({u: set() for u in range(USERS)} for _ in range(2))
    for part, sets in ((data.train, train), (data.test, test)):
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            sets[user].add(item)
    rows = {}
    for user in range(USERS):
        if not test[user]:
            continue
        scores = (final.item @ final.user[user]).numpy().astype(float)
        scores[list(train[user])] = -np.inf
        hits = [item in test[user] for item in np.argsort(-scores)[:k]]
        gain = sum(1 / np.log2(rank + 2) for rank, hit in enumerate(hits) if hit)
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(test[user]))))
        first = next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0)
        rows[user] = (sum(hits) / len(test[user]), gain / ideal, sum(hits) / k, first, float(any(hits)))
    return rows


@pytest.mark.parametrize("k", CUTOFFS)
def test_per_user_values_match_the_definition(case, k):
    data, final = case
    scores = protocol.score(protocol.rank(final, data.train, data.test, 20, batch_users=7), data.test, ITEMS, (k,))
    expected = reference(data, final, k)
    assert scores.users.tolist() == list(expected)
    ours = np.stack([scores.values[f"{name}@{k}"].numpy() for name in ("recall", "ndcg", "precision", "mrr", "hit")], 1)
    np.testing.assert_allclose(ours, np.array(list(expected.values())), atol=1e-9)


def test_means_match_ranx(case):
    data, final = case
    ranking = protocol.rank(final, data.train, data.test, 20)
    qrels, run = {}, {}
    for user, item in zip(data.test.users.tolist(), data.test.items.tolist(), strict=True):
        qrels.setdefault(str(user), {})[str(item)] = 1
    for user, top in zip(ranking.users.tolist(), ranking.top.tolist(), strict=True):
        run[str(user)] = {str(item): float(20 - rank) for rank, item in enumerate(top)}
    names = [f"{name}@{k}" for name in ("recall", "ndcg", "precision", "mrr", "hit_rate") for k in CUTOFFS]
    theirs = ranx_evaluate(Qrels(qrels), Run(run), names)
    ours = protocol.score(ranking, data.test, ITEMS, CUTOFFS).means()
    for name in names:
        assert ours[name.replace("hit_rate", "hit")] == pytest.approx(theirs[name], abs=1e-6), name


def test_train_items_are_never_recommended_and_blocks_do_not_matter(case):
    data, final = case
    one, many = (protocol.rank(final, data.train, data.test, 20, batch_users=size) for size in (1, 1000))
    assert torch.equal(one.top, many.top)
    seen = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    shown = {(user, item) for user, top in zip(one.users.tolist(), one.top.tolist(), strict=True) for item in top}
    assert not seen & shown


def test_slices_partition_the_held_out_pairs(case):
    data, final = case
    ranking = protocol.rank(final, data.train, data.test, 20)
    parts = slices(Matches(ranking, data.test, ITEMS), data, data.test, (20,), 3)
    for side in ("user", "item"):
        assert sum(part.pairs for part in parts if part.side == side) == len(data.test)
    users = [part for part in parts if part.side == "user"]
    whole = protocol.score(ranking, data.test, ITEMS, (20,)).means()["recall@20"]
    mean = sum(part.users * part.metrics["recall@20"] for part in users) / sum(part.users for part in users)
    assert mean == pytest.approx(whole)


def test_slices_by_age_leave_items_without_one_to_the_popularities(case):
    data, final = case
    ages = torch.arange(ITEMS) // 9 - 1  # nine items of each age from -1 (never in train) to 8 days
    matches = Matches(protocol.rank(final, data.train, data.test, 20), data.test, ITEMS)
    parts = [part for part in slices(matches, data, data.test, (20,), 3, ages=ages) if part.side == "item age"]
    aged = ages[data.test.items]
    assert parts[0].low == 0 and parts[-1].high == 8
    assert [part.pairs for part in parts] == [int(((aged >= part.low) & (aged <= part.high)).sum()) for part in parts]
    assert sum(part.pairs for part in parts) == int((aged >= 0).sum()) < len(data.test)


def test_a_reference_gets_intervals_by_rarity(case):
    data, final = case
    lists = Matches(protocol.rank(final, data.train, data.test, 20), data.test, ITEMS)
    against = Representations(-final.nodes[:, torch.randperm(final.dim)], final.n_users)
    other = Matches(protocol.rank(against, data.train, data.test, 20), data.test, ITEMS)
    parts = slices(lists, data, data.test, (5, 20), 3, others={"reference": other})
    rare = [part for part in parts if part.side == "item rarity"]
    assert {part.low for part in rare} <= {0, 1, 6, 21}
    assert sum(part.pairs for part in rare) == len(data.test), "the groups partition the held-out pairs"
    for part in rare:
        assert part.gain is not None
        middle = part.metrics["recall@20"] - part.others["reference"]["recall@20"]
        assert sum(part.gain) / 2 == pytest.approx(middle, abs=1e-6) or part.gain == (-1, 1)
    assert not [part for part in slices(lists, data, data.test, (20,), 3) if part.side == "item rarity"]


def test_other_models_are_measured_in_the_same_slices(case):
    data, final = case
    right = torch.zeros(USERS, ITEMS)
    right[data.test.users, data.test.items] = 1
    oracle = Representations(torch.cat([right, torch.eye(ITEMS)]), USERS)
    rankings = (protocol.rank(each, data.train, data.test, 20) for each in (final, oracle))
    lists, best = (Matches(ranking, data.test, ITEMS) for ranking in rankings)
    for part in slices(lists, data, data.test, (20,), 3, others={"oracle": best}):
        assert part.others["oracle"]["recall@20"] == pytest.approx(1)
        assert part.others["oracle"].keys() <= part.metrics.keys()
    [alone] = slices(best, data, data.test, (20,), 1)[:1]
    assert alone.others == {}


def test_an_oracle_beats_chance_significantly(case):
    data, final = case
    right = torch.zeros(USERS, ITEMS)
    right[data.test.users, data.test.items] = 1
    oracle = Representations(torch.cat([right, torch.eye(ITEMS)]), USERS)
    rankings = (protocol.rank(each, data.train, data.test, 20) for each in (oracle, final))
    good, chance = (protocol.score(ranking, data.test, ITEMS, (20,)) for ranking in rankings)
    assert good.means()["ndcg@20"] == pytest.approx(1)
    result = compare(good, chance)["recall@20"]
    assert result.difference > 0.5
    assert max(result.t_test, result.wilcoxon) < 1e-6
    assert compare(good, good)["recall@20"].t_test == 1.0


def test_report_is_whole(case):
    data, final = case
    result = report(final, final, data, EvaluateConfig(cutoffs=(5, 20)))
    assert result.metrics["test"] == result.metrics["reference"]
    assert {"test", "validation", "popularity", "reference", "significance", "slices"} <= result.metrics.keys()
    for part in result.metrics["slices"]:
        assert part["others"].keys() == {"popularity", "reference"}
        assert part["others"]["reference"].items() <= part["metrics"].items()
    assert result.per_user["recall@20"].mean() == pytest.approx(result.metrics["test"]["recall@20"], abs=1e-6)


def test_nobody_to_judge_gives_null(case):
    data, final = case
    nothing = Pairs(data.test.users[:0], data.test.items[:0])
    empty = Interactions(USERS, ITEMS, data.train, nothing, nothing)
    assert report(final, None, empty, EvaluateConfig()).metrics["test"]["recall@20"] is None


def test_a_user_who_has_seen_nearly_everything_gets_items_and_no_padding():
    seen = Pairs.of(np.zeros(10, np.int64), np.arange(10))
    final = Representations(torch.ones(13, 4), n_users=1)
    top = Ranker(final, ItemLists(seen, final.n_users, len(final.item))).top(torch.tensor([0]), 12)
    assert set(top[0, :2].tolist()) == {10, 11}
    assert sorted(top[0].tolist()) == list(range(12))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_scores_that_are_not_finite_are_never_ranked(bad, case):
    data, final = case
    nodes = final.nodes.clone()
    nodes[0, 0], nodes[-1, 0] = bad, bad
    with pytest.raises(DarecError, match="not finite"):
        protocol.rank(Representations(nodes, USERS), data.train, data.test, 5)


def test_the_interval_of_a_paired_difference_is_students():
    generator = np.random.default_rng(0)
    first, second = (torch.from_numpy(generator.random(50)) for _ in range(2))
    users = torch.arange(50)
    scores = [protocol.Scores(users, {"recall@20": values}) for values in (first, second)]
    expected = stats.ttest_rel(first.numpy(), second.numpy()).confidence_interval(0.95)
    assert interval(*scores, "recall@20") == pytest.approx((expected.low, expected.high))
    one = [protocol.Scores(users[:1], {"recall@20": values[:1]}) for values in (first, second)]
    assert interval(*one, "recall@20") == (-1, 1), "of one user nothing is known"


def test_one_ranking_serves_validation_and_test(case, monkeypatch):
    data, final = case
    config, ranked = EvaluateConfig(cutoffs=(5, 20)), []
    top = Ranker.top
    monkeypatch.setattr(Ranker, "top", lambda self, users, k: ranked.append(len(users)) or top(self, users, k))
    metrics = report(final, final, data, config).metrics
    either, test = (
        len(torch.unique(users)) for users in (torch.cat([data.val.users, data.test.users]), data.test.users)
    )
    assert sum(ranked) == either + test  # the model; the reference
    assert "candidates" not in metrics
    for part, pairs in (("validation", data.val), ("test", data.test)):
        assert metrics[part] == evaluate_model(final, data, pairs, config).summary


@given(seed=st.integers(0, 5), k=st.sampled_from([1, 3, 20, 60]), share=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_the_most_popular_items_that_a_user_has_not_seen(seed, k, share):
    generator, users, items = np.random.default_rng(seed), 7, 50
    counts, seen = generator.integers(6, size=items), generator.random((users, items)) < share
    final = Representations(torch.cat([torch.ones(users), torch.from_numpy(counts)]).float()[:, None], users)
    top = MostPopular(final, ItemLists(Pairs.of(*np.nonzero(seen)), users, items)).top(torch.arange(users), k)
    expected = np.lexsort((np.broadcast_to(-counts, seen.shape), seen), axis=1)[:, :k]  # stable: ties by number
    assert top.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def large():
    """Vectors around centres, as trained ones are, of items of many lengths."""
    generator, users, items = np.random.default_rng(5), 400, 6000
    centres = generator.standard_normal((60, 16))
    nodes = centres[generator.integers(60, size=users + items)] + 0.5 * generator.standard_normal((users + items, 16))
    nodes[users:] *= generator.pareto(3, size=(items, 1)) + 1
    pairs = [Pairs.of(generator.integers(users, size=n), generator.integers(items, size=n)) for n in (8000, 400, 900)]
    return Interactions(users, items, *pairs), Representations(torch.from_numpy(nodes).float(), users)


def test_lists_of_an_index_are_checked_against_exact_ones(large, monkeypatch):
    data, final = large
    monkeypatch.setattr(candidates, "FEW_LISTS", 1.0)
    exact = report(final, None, data, EvaluateConfig(cutoffs=(20,))).metrics
    found = report(final, None, data, EvaluateConfig(cutoffs=(20,)), ranker=IndexRanker).metrics
    check = found["candidates"]
    assert check["users"] == len(torch.unique(data.test.users))
    assert check["found"] > 0.97
    assert check["exact recall@20"] == exact["test"]["recall@20"]
    assert check["recall@20"] == found["test"]["recall@20"] == pytest.approx(exact["test"]["recall@20"], rel=0.05)
    seen = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    lists = protocol.rank(final, data.train, data.test, 20, ranker=IndexRanker)
    ranked = zip(lists.users.tolist(), lists.top.tolist(), strict=True)
    assert not seen & {(user, item) for user, row in ranked for item in row}


def test_every_item_is_ranked_where_the_index_needs_many_lists(large, monkeypatch):
    data, final = large
    monkeypatch.setattr(candidates, "FEW_LISTS", 0.001)
    monkeypatch.setattr(candidates, "search", None)
    found = report(final, None, data, EvaluateConfig(cutoffs=(20,)), ranker=IndexRanker).metrics
    assert "candidates" not in found, "exact lists are not compared with exact ones"
    assert found["test"] == report(final, None, data, EvaluateConfig(cutoffs=(20,))).metrics["test"]


def test_many_items_are_ranked_exactly_where_the_longest_suffice(large, monkeypatch):
    data, final = large
    exact = report(final, None, data, EvaluateConfig(cutoffs=(20,))).metrics
    monkeypatch.setattr(longest_first, "_SMALLEST", 256)
    monkeypatch.setattr(candidates, "search", None)
    monkeypatch.setattr(candidates, "FEW_LISTS", 1.0)
    found = report(final, None, data, EvaluateConfig(cutoffs=(20,)), ranker=LargeRanker).metrics
    assert "candidates" not in found
    assert found["test"] == exact["test"]

    unit = functional.normalize(final.nodes)
    with pytest.raises(TypeError):  # the index is searched
        report(Representations(unit, data.n_users), None, data, EvaluateConfig(cutoffs=(20,)), ranker=LargeRanker)


def test_lists_of_an_index_end_with_seen_items_if_no_others_are_left(large):
    data, final = large
    user, items = int(data.test.users[0]), len(final.item)
    seen = Pairs.of(np.full(items - 5, user), np.arange(items - 5))
    top = protocol.rank(final, seen, Pairs.of(np.array([user]), np.array([0])), 20, ranker=IndexRanker).top[0].tolist()
    assert sorted(top[:5]) == list(range(items - 5, items))
    assert len(set(top)) == 20


def test_the_index_is_for_many_pairs():
    auto, forced = EvaluateConfig(), EvaluateConfig(candidates="index")
    assert ranker_for(auto, 100_000, 100_000) is Ranker
    assert ranker_for(auto, 1_000_000, 1_000_000) is LargeRanker
    assert ranker_for(forced, 10, 10) is IndexRanker
    assert ranker_for(EvaluateConfig(candidates="all"), 10**6, 10**6) is Ranker


def test_the_age_of_an_item_is_counted_from_its_first_train_interaction():
    day = 86_400
    train = pl.DataFrame({c.ITEM_INDEX: [0, 0, 2, 3], c.TIMESTAMP: [5 * day, day, 9 * day + 5, 10 * day]})
    train = train.with_columns(pl.col(c.ITEM_INDEX).cast(pl.Int32))
    assert item_ages(train, 5).tolist() == [9, -1, 0, 0, -1]
    assert item_ages(train.with_columns(pl.lit(None, pl.Int64).alias(c.TIMESTAMP)), 5) is None
