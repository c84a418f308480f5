"""Rules: lists against plain loops over whole catalogues, for every kind of index, and what is said of mistakes."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.evaluation.rerankers import build, write
from darec.serving.bundle import Bundle, Contents, vectors_of
from darec.serving.lists import write_lists
from darec.serving.ranker import with_new
from darec.serving.recommend import recommend, recommend_many, similar
from darec.serving.rules import Rules
from schemas.lists import ListsConfig
from schemas.recipe import Recipe
from schemas.release import ExportConfig
from schemas.rerank import MMRConfig
from schemas.rules import RulesConfig
from tests.release_samples import contents, export

USERS, ITEMS = 25, 90
GENRES, BRANDS = ("comedy", "drama", "horror"), tuple(f"brand {number}" for number in range(12))


@cache
def world(kind: str) -> tuple[Bundle, Contents, dict[str, dict[str, set[str]]]]:
    """A release of which items have one to three genres and, but for the last ten, a brand; and these by item id."""
    generator = np.random.default_rng(1)
    rows = [(item, "genre", genre) for item in range(ITEMS) for genre in generator.permutation(GENRES)[: 1 + item % 3]]
    rows += [(item, "brand", BRANDS[generator.integers(12)]) for item in range(ITEMS - 10)]
    schema = {"item_index": pl.Int32, "name": pl.String, "value": pl.String}
    attributes = pl.DataFrame(rows, schema=schema, orient="row").sort("name", "item_index", "value")
    sample = contents(USERS, ITEMS, seed=4, cold_users=3)
    sample = Contents(sample.users, sample.items, sample.seen, attributes=attributes)
    config = ExportConfig(index=kind, attributes=("genre", "brand"), effort=1)  # the least that an index may look at
    bundle = Bundle.open(export(Store(Path(mkdtemp())), sample, config=config).path)
    found: dict[str, dict[str, set[str]]] = {
        name: {f"i{item}": set() for item in range(ITEMS)} for name in ("genre", "brand")
    }
    for item, name, value in rows:
        found[name][f"i{item}"].add(value)
    return bundle, sample, found


def loops(kind: str, user: int, k: int, rules: RulesConfig) -> list[str]:
    """The list that rules ask for: the catalogue from the best item down, one item at a time."""
    _, sample, found = world(kind)
    cold = user >= USERS - 3
    scores = vectors_of(sample.users)[user] @ vectors_of(sample.items).T
    scores = sample.items["train_count"].to_numpy().astype(float) if cold else scores
    seen = set(sample.seen.filter(user_index=user)["item_index"].to_list())
    train_counts = sample.items["train_count"].to_list()
    counts: dict[tuple[str, str], int] = {}
    chosen: list[str] = []
    for number in np.argsort(-scores, kind="stable"):
        item = f"i{number}"
        values = {(name, value) for name in rules.at_most for value in found[name][item]}
        allowed = (
            (rules.seen or number not in seen)
            and (rules.only is None or item in rules.only)
            and (rules.in_stock is None or item in rules.in_stock)
            and item not in rules.blocked
            and (not rules.only_new or train_counts[number] <= rules.new_up_to)
            and all(found[name][item] & set(wanted) for name, wanted in rules.categories.items())
            and not any(found[name][item] & set(wanted) for name, wanted in rules.blocked_categories.items())
            and all(counts.get(pair, 0) < rules.at_most[pair[0]] for pair in values)
        )
        if allowed and len(chosen) < k:
            chosen.append(item)
            counts |= {pair: counts.get(pair, 0) + 1 for pair in values}
    return chosen


ids = st.lists(st.integers(0, ITEMS - 1).map("i{}".format), unique=True, max_size=60).map(tuple)
given_rules = st.fixed_dictionaries(
    {},
    optional={
        "only": ids,
        "in_stock": ids,
        "blocked": ids,
        "categories": st.fixed_dictionaries({"genre": st.sets(st.sampled_from(GENRES), min_size=1).map(sorted)}),
        "blocked_categories": st.fixed_dictionaries({"genre": st.just(["horror"])}),
        "at_most": st.sampled_from([{"brand": 1}, {"brand": 2}, {"genre": 3}, {"genre": 4, "brand": 1}]),
        "seen": st.booleans(),
        "only_new": st.booleans(),
        "new_up_to": st.sampled_from([0, 2, 3, 6]),
    },
)


@settings(max_examples=120, deadline=None)
@given(
    rules=given_rules,
    kind=st.sampled_from(["flat", "ivf", "hnsw"]),
    users=st.lists(st.integers(0, USERS - 1), min_size=1, max_size=12),
    k=st.sampled_from([1, 5, 20, ITEMS]),
)
def test_lists_are_those_of_loops_over_the_whole_catalogue(rules, kind, users, k):
    chosen = RulesConfig.model_validate(rules)
    expected = {f"u{user}": loops(kind, user, k, chosen) for user in users}
    bundle, _, _ = world(kind)
    try:
        answer = recommend_many(bundle, [f"u{user}" for user in dict.fromkeys(users)], k, chosen)
    except UserError as error:
        assert "the rules allow no item" in str(error)
        assert not any(expected.values())
        return
    got = {user: answer.filter(user_id=user)["item_id"].to_list() for user in expected}
    # An approximate index may look at a part of the catalogue where nearly all items are allowed.
    allowed = loops(kind, 0, ITEMS, chosen.model_copy(update={"seen": True, "at_most": {}}))
    exact = kind == "flat" or len(allowed) < 0.95 * ITEMS
    for user, items in expected.items():
        assert exact or len(got[user]) == len(items) or "genre" in chosen.at_most
        if exact or int(user[1:]) >= USERS - 3:
            assert got[user] == items


@settings(max_examples=40, deadline=None)
@given(rules=given_rules, kind=st.sampled_from(["flat", "ivf", "hnsw"]), item=st.integers(0, ITEMS - 1))
def test_similar_items_are_only_those_that_the_rules_allow(rules, kind, item):
    bundle, _, _ = world(kind)
    chosen = RulesConfig.model_validate(rules)
    try:
        allowed = Rules.of(chosen, bundle).allowed
    except UserError:
        return
    unruled = similar(bundle, f"i{item}", ITEMS)["item_id"].to_list()
    expected = [other for other in unruled if allowed is None or allowed[int(other[1:])]]
    assert similar(bundle, f"i{item}", ITEMS, chosen)["item_id"].to_list() == expected


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_rare_item_is_found_wherever_it_is_in_the_index(kind):
    bundle, _, _ = world(kind)
    for item in range(0, ITEMS, 7):
        rules = RulesConfig(only=(f"i{item}",), seen=True)
        assert recommend(bundle, "u0", 5, rules)["item_id"].to_list() == [f"i{item}"]


def test_k_stays_k_when_the_best_items_share_a_category():
    bundle, _, found = world("flat")
    answer = recommend_many(bundle, [f"u{user}" for user in range(USERS)], 12, RulesConfig(at_most={"brand": 1}))
    for _, items in answer.group_by("user_id"):
        brands = [brand for item in items["item_id"] for brand in found["brand"][item]]
        assert len(brands) == len(set(brands)) and items.height == 12


def test_lists_reach_the_minimum_diversity_where_the_candidates_allow():
    bundle, sample, _ = world("flat")
    unit = vectors_of(sample.items) / np.linalg.norm(vectors_of(sample.items), axis=1, keepdims=True)

    def diversity(answer: pl.DataFrame) -> dict[str, float]:
        lists = {user: [int(item[1:]) for item in rows["item_id"]] for (user,), rows in answer.group_by("user_id")}
        pairs = {user: np.triu_indices(len(items), 1) for user, items in lists.items()}
        return {user: 1 - float((unit[items] @ unit[items].T)[pairs[user]].mean()) for user, items in lists.items()}

    users = [f"u{user}" for user in range(USERS)]
    before = diversity(plain := recommend_many(bundle, users, 8))
    limit = float(np.median(list(before.values())))
    answer = recommend_many(bundle, users, 8, RulesConfig(min_diversity=limit))
    after = diversity(answer)
    assert min(before.values()) < limit <= min(after.values()) + 1e-3
    for user in users:
        if before[user] > limit + 1e-3:
            same = (rows.filter(user_id=user)["item_id"].to_list() for rows in (plain, answer))
            assert next(same) == next(same), "a list that is diverse enough stays as it is"


def test_reranked_lists_keep_to_the_rules_and_have_k_items(tmp_path):
    _, sample, found = world("flat")
    vectors = {"interactions": torch.tensor(vectors_of(sample.items))}
    write(build(MMRConfig(similarity="interactions", candidates=15, weight=0.6), vectors), tmp_path / "reranker")
    sample = Contents(sample.users, sample.items, sample.seen, 0, tmp_path / "reranker", sample.attributes)
    config = ExportConfig(attributes=("genre", "brand"))
    bundle = Bundle.open(export(Store(tmp_path / "store"), sample, config=config).path)

    users, blocked = [f"u{user}" for user in range(USERS)], tuple(f"i{item}" for item in range(0, ITEMS, 9))
    plain = recommend_many(bundle, users, 12)
    ruled = recommend_many(bundle, users, 12, RulesConfig(at_most={"brand": 1}, blocked=blocked))
    assert plain["item_id"].to_list() != recommend_many(world("flat")[0], users, 12)["item_id"].to_list()
    for (user,), items in ruled.group_by("user_id"):
        brands = [brand for item in items["item_id"] for brand in found["brand"][item]]
        assert len(brands) == len(set(brands)) and items.height == 12
        assert not set(items["item_id"]) & set(blocked)
        assert items["item_id"][0] == next(i for i in loops("flat", int(user[1:]), 1, RulesConfig(blocked=blocked)))


def test_ids_come_from_text_and_parquet_files(tmp_path):
    bundle, _, _ = world("flat")
    (tmp_path / "ids.txt").write_text("\ufeffi3\r\n\n i5 \nunknown\n")
    pl.DataFrame({"item_id": ["i3", "i5", "unknown"]}).write_parquet(tmp_path / "ids.parquet")
    for name in ("ids.txt", "ids.parquet"):
        rules = RulesConfig(only=tmp_path / name, seen=True)
        assert set(recommend(bundle, "u0", 9, rules)["item_id"]) == {"i3", "i5"}
        assert "i3" not in recommend(bundle, "u0", ITEMS, RulesConfig(blocked=tmp_path / name))["item_id"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"categories": {"genre": ["comedi"]}}, r"no item has genre 'comedi' .* nearest known: comedy"),
        (
            {"categories": {"colour": ["red"]}},
            r"does not have the attribute 'colour' .* add 'colour' to export.attributes",
        ),
        ({"at_most": {"colour": 1}}, r"does not have the attribute 'colour'"),
        ({"only": ["nobody"]}, r"the rules allow no item"),
        ({"in_stock": "gone.txt"}, r"the file of rules.in_stock does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line(rules, message):
    with pytest.raises(UserError, match=message):
        recommend(world("flat")[0], "u0", 5, RulesConfig.model_validate(rules))


def test_a_recipe_must_release_the_attributes_that_its_rules_name():
    rules = {"at_most": {"genres": 3}}
    with pytest.raises(ValidationError, match=r"rules\.at_most: 'genres' is not in export\.attributes"):
        Recipe.model_validate({"rules": rules})
    assert Recipe.model_validate({"rules": rules, "export": {"attributes": ["genres"]}}).rules.at_most == {"genres": 3}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.25, 0.5]), k=st.sampled_from([1, 4, 10, 20]))
def test_new_items_get_their_share_of_the_places(seed, share, k):
    """Against one list at a time: others go from the end, and the best new items stand at even distances."""
    generator = np.random.default_rng(seed)
    is_new = generator.random(40) < 0.2
    scores = generator.standard_normal((3, 40)).astype(np.float32)
    order = np.argsort(-scores, axis=1)
    left = generator.integers(1, 41, size=3)  # how many items each list may hold at all

    def best(row: int, among: np.ndarray, n: int) -> list[int]:
        found = [item for item in order[row][: left[row]] if among[item]][:n]
        return found + [-1] * (n - len(found))

    most = int(share * k + 1e-9)
    ids, new = (
        np.array([best(row, among, n) for row in range(3)]) for among, n in ((is_new | True, k), (is_new, most))
    )
    if most == 0:
        return
    values, new_values = (np.take_along_axis(scores, np.maximum(each, 0), 1) for each in (ids, new))
    lists, list_scores = with_new(ids, values, new, new_values, is_new)
    for row in range(3):
        plain = [item for item in ids[row] if item >= 0]
        there = [item for item in plain if is_new[item]]
        added = [item for item in new[row] if item >= 0 and item not in there][: max(most - len(there), 0)]
        kept, places = list(ids[row]), [(place + 1) * k // most - 1 for place in range(most)]
        for _ in added:
            del kept[max(place for place, item in enumerate(kept) if item < 0 or not is_new[item])]
        expected = list(kept)
        for item, place in zip(added, places[len(places) - len(added) :], strict=True):
            expected.insert(place, item)
        assert list(lists[row]) == expected
        filled = lists[row] >= 0
        np.testing.assert_array_equal(list_scores[row][filled], scores[row][lists[row][filled]])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_lists_with_new_items_are_the_same_for_one_user_and_for_all(kind, tmp_path):
    bundle, sample, _ = world(kind)
    rules = RulesConfig(new_share=0.3, new_up_to=3, blocked=("i5",))
    new = {item for item, count in zip(sample.items["item_id"], sample.items["train_count"], strict=True) if count <= 3}
    users = [f"u{user}" for user in range(USERS)]
    many = recommend_many(bundle, users, 10, rules)
    for user in users[: USERS - 3]:
        items = recommend(bundle, user, 10, rules)["item_id"].to_list()
        assert items == many.filter(user_id=user)["item_id"].to_list()
        assert len(items) == len(set(items)) == 10 and "i5" not in items and len(new & set(items)) >= 3
    write_lists(bundle, tmp_path / "lists", ListsConfig(k=10), rules)
    written = pl.read_parquet(tmp_path / "lists" / "part-00000.parquet")
    exact = recommend_many(world("flat")[0], users, 10, rules)  # an index of so few lists is not used for all users
    assert written.select("user_id", "item_id").rows() == exact.select("user_id", "item_id").rows()
    arrivals = recommend(bundle, "u1", 10, RulesConfig(only_new=True, new_up_to=3))["item_id"].to_list()
    assert arrivals and set(arrivals) <= new


def test_a_share_of_new_items_cannot_be_combined_with_limits():
    with pytest.raises(ValidationError, match="new_share cannot be combined with at_most or min_diversity"):
        RulesConfig(new_share=0.1, at_most={"brand": 1})
