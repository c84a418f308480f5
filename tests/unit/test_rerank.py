"""Rerankers: MMR by hand and against loops, its file, and one order in evaluation, at the gate and in a release."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darec.artifacts.store import Store
from darec.common.errors import DarecError
from darec.common.interactions import Pairs, Representations
from darec.evaluation.protocol import rank
from darec.evaluation.rerankers import build, read, write
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.comparison import ChallengerRun, Model
from darec.serving.recommend import recommend_many
from darec.serving.releases import Releases
from schemas.recipe import Recipe
from schemas.rerank import MMRConfig
from schemas.training import EvaluateConfig
from stages.registry import needed
from tests.report_samples import recipe, run


def mmr(vectors, **settings):
    config = MMRConfig(similarity="interactions", **settings)
    return build(config, {"interactions": torch.as_tensor(vectors, dtype=torch.float32)})


def loops(vectors, items, scores, k, weight):
    """The definition, one user and one item at a time."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    span = max(scores.max() - scores.min(), 1e-12)
    relevance = (scores - scores.min()) / span
    left, chosen = list(range(len(items))), []
    while len(chosen) < k:
        values = [
            (1 - weight) * relevance[place]
            - weight * max((cosine[items[place], items[other]] for other in chosen), default=0)
            for place in left
        ]
        chosen.append(left.pop(int(np.argmax(values))))
    return items[chosen]


def test_a_case_by_hand():
    # Items 0 and 1 point the same way, item 2 across, item 3 between. Scaled scores: 1, 0.9, 0.5, 0.
    vectors = [[1, 0], [2, 0], [0, 1], [1, 1]]
    items, scores = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[11.0, 10.0, 6.0, 1.0]])
    # weight 0.5, after item 0: item 1 has 0.45 - 0.5 = -0.05, item 2 has 0.25 - 0 = 0.25, item 3 0 - 0.354.
    # After items 0 and 2: item 1 still -0.05, item 3 -0.354.
    found, kept = mmr(vectors, weight=0.5).rerank(items, scores, 3)
    assert found.tolist() == [[0, 2, 1]]
    assert kept.tolist() == [[11.0, 6.0, 10.0]], "scores are those of the model"
    # weight 0.2: item 1 has 0.72 - 0.2 = 0.52 against item 2 with 0.4.
    assert mmr(vectors, weight=0.2).rerank(items, scores, 3)[0].tolist() == [[0, 1, 2]]
    # weight 1: relevance counts only for the first. Item 2 (cosine 0), then item 3 (0.707) before item 1 (1).
    assert mmr(vectors, weight=1).rerank(items, scores, 4)[0].tolist() == [[0, 2, 3, 1]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    users=st.integers(1, 5),
    count=st.integers(1, 30),
    k=st.integers(1, 30),
    weight=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_lists_are_those_of_loops(seed, users, count, k, weight):
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((40, 5)).astype(np.float32)
    items = np.stack([generator.permutation(40)[:count] for _ in range(users)])
    scores = -np.sort(-generator.standard_normal((users, count)), axis=1).astype(np.float32)
    k = min(k, count)
    found, kept = mmr(vectors, weight=weight).rerank(torch.from_numpy(items), torch.from_numpy(scores), k)
    for user in range(users):
        assert found[user].tolist() == loops(vectors, items[user], scores[user], k, weight).tolist()
        of_item = dict(zip(items[user].tolist(), scores[user].tolist(), strict=True))
        assert kept[user].tolist() == [of_item[item] for item in found[user].tolist()]
    if weight == 0:
        assert found.tolist() == items[:, :k].tolist()


def test_items_after_the_candidates_keep_their_order_and_places_without_one_come_last():
    vectors = [[1, 0], [1, 0], [0, 1], [0, 1], [1, 1]]
    items = torch.tensor([[0, 1, 2, 3, 4], [0, 1, -1, -1, -1]])
    nothing = -torch.inf
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [5, 4, nothing, nothing, nothing]])
    found, kept = mmr(vectors, weight=0.9, candidates=3).rerank(items, scores, 5)
    assert found[0].tolist() == [0, 2, 1, 3, 4]
    assert found[1].tolist() == [0, 1, -1, -1, -1]
    assert kept[1, 2:].tolist() == [nothing] * 3


def test_a_part_of_the_items_is_numbered_by_place():
    whole = mmr(np.random.default_rng(0).standard_normal((9, 4)), weight=0.7)
    part = torch.tensor([7, 2, 5, 0])
    scores = torch.tensor([[4.0, 3, 2, 1]])
    places = whole.of(part).rerank(torch.arange(4)[None], scores, 4)[0]
    assert part[places].tolist() == whole.rerank(part[None], scores, 4)[0].tolist()


def test_a_file_gives_the_reranker_back_and_one_that_is_none_is_a_clear_error(tmp_path):
    made = mmr(np.random.default_rng(0).standard_normal((9, 4)), weight=0.7, candidates=5)
    write(made, tmp_path / "reranker")
    again = read(tmp_path / "reranker")
    assert again.config == made.config
    torch.testing.assert_close(again.vectors["interactions"].float(), made.vectors["interactions"], rtol=1e-3, atol=0)
    (tmp_path / "reranker").write_bytes(b"nonsense")
    with pytest.raises(DarecError, match="the reranker cannot be read"):
        read(tmp_path / "reranker")


def test_a_recipe_without_text_must_compare_items_by_trained_vectors():
    plain = {"train": {"alignment": []}}
    with pytest.raises(ValidationError, match=r"rerank\.similarity: the recipe uses no text"):
        Recipe.model_validate({**plain, "rerank": {}})
    chosen = Recipe.model_validate({**plain, "rerank": {"similarity": "interactions"}})
    assert [task.name for task in needed(chosen)][-4:] == ["rerank", "evaluate", "export", "publish"]
    assert "rerank" not in {task.name for task in needed(Recipe())}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two whole runs in one store: the plain recipe, and the same with a reranker."""
    folder = tmp_path_factory.mktemp("world")
    plain = run(recipe(folder))
    chosen = recipe(folder, rerank={"weight": 0.8, "candidates": 12}, evaluate={"cutoffs": [5]})
    return chosen, plain, run(chosen)


def test_only_what_follows_the_reranker_runs_again(world):
    _, plain, reranked = world
    assert plain.keys() == reranked.keys() - {"rerank"}
    changed = {stage for stage in plain if plain[stage] != reranked[stage]}
    assert changed == {"evaluate", "export"}


def test_evaluation_says_what_reranking_does(world):
    chosen, _, keys = world
    store = Store(chosen.runtime.store)
    report = store.artifact("evaluate", keys["evaluate"]).manifest.report
    after, before = report["test"], report["before_reranking"]
    assert after["diversity@5"] > before["diversity@5"] + 0.05
    assert 0 <= after["recall@5"] <= 1 and before["recall@5"] != after["recall@5"]

    per_user = pl.read_parquet(store.artifact("evaluate", keys["evaluate"]).path / "per_user.parquet")
    for name, values in ((name, report) for name, report in (("", after), ("before_reranking/", before))):
        assert per_user[f"{name}recall@5"].mean() == pytest.approx(values["recall@5"], abs=1e-6)
        assert per_user[f"{name}diversity@5"].mean() == pytest.approx(values["diversity@5"], abs=1e-6)


def test_the_release_serves_the_order_that_evaluation_judges(world):
    chosen, _, _ = world
    releases = Releases(chosen.runtime.store)
    bundle = Bundle.open(releases.serving())
    assert bundle.reranker is not None
    users = bundle.users(bundle.user_ids().to_list()).sort("user_index")
    items = bundle.item_vectors(bundle.items["item_id"].to_list()).sort("item_index")
    seen = bundle.seen(users["user_index"].to_list())

    final = Representations.join(*(torch.tensor(vectors_of(side)) for side in (users, items)))
    all_users = Pairs.of(np.arange(users.height), np.zeros(users.height))
    ranking = rank(final, Pairs.of_table(seen), all_users, 5, reranker=bundle.reranker)

    answer = recommend_many(bundle, users["user_id"].to_list(), 5)
    for user, top in zip(users["user_id"], ranking.top.tolist(), strict=True):
        served = answer.filter(user_id=user)["item_id"].to_list()
        assert served == [bundle.items["item_id"][item] for item in top][: len(served)]


def test_the_gate_compares_reranked_lists():
    def released(name, reranker=None):
        sides = (
            ({"user_id": ["ann", "bob"]}, [[1, 0], [1, 0]]),
            ({"item_id": list("xabc")}, [[9, 9], [3, 0], [2, 0], [1, 1]]),
        )
        users, items = (
            pl.LazyFrame(ids | {"vector": pl.Series(np.array(rows, np.float32), dtype=pl.Array(pl.Float32, 2))})
            for ids, rows in sides
        )
        return Model(name, users, items.slice(0 if name == "new" else 1), reranker=reranker)

    # Common items a, b, c with scores 3, 2, 1; b points where a does, so MMR has c second. Item x is new's alone:
    # the reranker has to follow the new numbers of the others.
    new = released("new", mmr([[9, 9], [3, 0], [2, 0], [1, 1]], weight=0.9))
    pairs = {"user_index": pl.Int32, "item_index": pl.Int32}
    test = pl.DataFrame([(0, 3), (1, 2)], schema=pairs, orient="row")  # ann: c, bob: b
    found = ChallengerRun(new, test.clear(), test).compare(released("old"), ["recall@2"], EvaluateConfig(), 9)
    assert (found.metrics["recall@2"].challenger, found.metrics["recall@2"].other) == (0.5, 0.5)
    only_ann = ChallengerRun(new, test.clear(), test[:1]).compare(released("old"), ["recall@2"], EvaluateConfig(), 9)
    assert (only_ann.metrics["recall@2"].challenger, only_ann.metrics["recall@2"].other) == (1.0, 0.0)
