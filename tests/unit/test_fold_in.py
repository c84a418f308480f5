"""Folding a history into a user vector: by hand, against brute force, and as the command line asks for it."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.bundle import Bundle, Contents, vectors_of
from darec.serving.fold_in import HistoryMap, fold_in, mean_items
from darec.serving.recommend import recommend_histories, recommend_many
from tests.release_samples import contents, export

USERS, ITEMS = 300, 40


def test_means_of_items_by_hand():
    item = torch.tensor([[2.0, 0.0], [0.0, 4.0], [6.0, 6.0]])
    rows, items = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    assert mean_items(rows, items, item, 3).tolist() == [[1.0, 2.0], [0.0, 0.0], [6.0, 6.0]]


def test_users_who_are_a_linear_map_of_their_items_are_found_exactly():
    """The vectors of users follow from their histories: the map that made them is the one that is learnt."""
    generator = torch.Generator().manual_seed(0)
    item, made_by = torch.randn(60, 5, generator=generator), torch.randn(5, 5, generator=generator)
    rows, items = torch.arange(200).repeat_interleave(4), torch.randint(60, (800,), generator=generator)
    user = mean_items(rows, items, item, 200) @ made_by + 0.5
    learnt = HistoryMap.learn(rows, items, user, item)
    torch.testing.assert_close(learnt.weights, made_by, rtol=1e-3, atol=1e-3)
    new = learnt.vectors(torch.tensor([0, 0, 1]), torch.tensor([3, 7, 9]), item, 2)
    torch.testing.assert_close(
        new, torch.stack([(item[3] + item[7]) / 2, item[9]]) @ made_by + 0.5, rtol=1e-3, atol=1e-3
    )


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Users are the sum of their items' vectors, so that a folded vector ranks as a trained one."""
    sample = contents(USERS, ITEMS, seed=3, seen_share=0.15)
    item = vectors_of(sample.items)
    seen = sample.seen.to_numpy()
    user = np.zeros((USERS, item.shape[1]), np.float32)
    np.add.at(user, seen[:, 0], item[seen[:, 1]])
    user /= np.maximum(np.bincount(seen[:, 0], minlength=USERS), 1)[:, None]
    vectors = pl.Series("vector", user, dtype=sample.users.schema["vector"])
    return Bundle.open(
        export(Store(Path(mkdtemp())), Contents(sample.users.with_columns(vectors), sample.items, sample.seen)).path
    )


def test_a_known_users_history_gives_the_known_users_list(bundle):
    users = [f"u{number}" for number in range(0, 60, 7)]
    known = bundle.seen(range(USERS)).join(
        bundle.items.with_row_index("item_index").cast({"item_index": pl.Int32}), on="item_index"
    )
    histories = [known.filter(user_index=int(user[1:]))["item_id"].to_list() for user in users]
    folded, trained = recommend_histories(bundle, histories, 5), recommend_many(bundle, users, 5)
    assert folded["item_id"].to_list() == trained["item_id"].to_list()
    assert folded["history"].to_list() == [number for number in range(len(users)) for _ in range(5)]
    assert set(folded["source"]) == {"history"}


@settings(max_examples=50, deadline=None)
@given(data=st.data(), k=st.integers(1, 50))
def test_lists_are_those_of_brute_force_and_hold_nothing_of_the_history(bundle, data, k):
    some = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=ITEMS)
    histories = data.draw(st.lists(some, min_size=1, max_size=5))
    answer = recommend_histories(bundle, [[f"i{item}" for item in history] for history in histories], k)
    rows = np.concatenate([np.full(len(set(each)), n) for n, each in enumerate(histories)])
    items = np.concatenate([sorted(set(each)) for each in histories])
    scores = fold_in(bundle, rows, items, len(histories)) @ bundle.all_item_vectors().T
    for number, history in enumerate(histories):
        unseen = [item for item in np.argsort(-scores[number], kind="stable") if item not in history][:k]
        assert answer.filter(history=number)["item_id"].to_list() == [f"i{item}" for item in unseen]


def test_an_empty_history_gets_what_is_popular_and_repeated_items_count_once(bundle):
    answer = recommend_histories(bundle, [[], ["i3", "i3", "i5"], ["i5", "i3"]], 4)
    counts = bundle.items["train_count"].to_numpy()
    best = np.argsort(-counts, kind="stable")[:4]
    assert answer.filter(history=0).select("item_id", "source").rows() == [(f"i{item}", "popularity") for item in best]
    twice, once = (answer.filter(history=number).drop("history") for number in (1, 2))
    assert twice.equals(once)


def test_no_history_at_all_is_an_empty_answer(bundle):
    assert recommend_histories(bundle, [], 4).is_empty()


def test_an_unknown_item_is_named_with_its_nearest(bundle):
    with pytest.raises(UserError, match="item 'i3x' is not in the release") as raised:
        recommend_histories(bundle, [["i1"], ["i2", "i3x"]])
    assert "i3" in raised.value.hint


def test_a_user_without_interactions_gets_what_the_text_predicts():
    sample = contents(cold_users=2)
    store = Store(Path(mkdtemp()))
    predicted = Bundle.open(export(store, Contents(sample.users, sample.items, sample.seen, cold_vectors="text")).path)
    answer = recommend_many(predicted, ["u0", "u29"], 5)
    assert answer["source"].to_list() == ["model"] * 5 + ["text"] * 5
    scores = vectors_of(sample.items) @ vectors_of(sample.users)[29]
    seen = sample.seen.filter(user_index=29)["item_index"].to_list()
    best = [item for item in np.argsort(-scores) if item not in seen][:5]
    assert answer["item_id"].to_list()[5:] == [f"i{item}" for item in best]
