"""The k items of greatest inner product, against NumPy: in both types and orders, for scores of any sign and size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.evaluation import longest_first, top_items
from darec.evaluation.longest_first import LongestFirst
from darec.evaluation.top_items import TopItems


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(longest_first, "_SMALLEST", 300)
    monkeypatch.setattr(longest_first, "_LARGEST", 700)
    monkeypatch.setattr(longest_first, "_USERS", {"cpu": 100})


def check(items, users, k, seen, dtype):
    for way in (TopItems, LongestFirst):
        check_one(way, items, users, k, seen, dtype)


def check_one(way, items, users, k, seen, dtype):
    rows, columns = np.nonzero(seen)
    without = torch.from_numpy(rows), torch.from_numpy(columns)
    found = way(torch.from_numpy(items), dtype).top(torch.from_numpy(users), k, without)
    ids, scores = (side.numpy() for side in found)

    exact = users.astype(float) @ items.T.astype(float)
    exact[seen] = -np.inf
    exact = np.pad(exact, ((0, 0), (0, max(0, k - len(items)))), constant_values=-np.inf)
    right = -np.sort(-exact, axis=1)[:, :k]
    scale = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0)))
    np.testing.assert_allclose(scores, right, rtol=0, atol=1e-5 * scale)
    assert np.array_equal(ids < 0, np.isneginf(right))
    np.testing.assert_allclose(
        np.take_along_axis(exact, np.maximum(ids, 0), 1)[ids >= 0], scores[ids >= 0], atol=1e-5 * scale
    )
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in ids)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 9),
    n=st.sampled_from([1, 31, 400, 3000]),
    width=st.sampled_from([1, 4, 32]),
    k=st.sampled_from([1, 5, 20]),
    share=st.sampled_from([0.0, 0.1, 0.97, 1.0]),
    kind=st.sampled_from(["any sign", "all negative", "long tail", "few values", "zero"]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_lists_are_those_of_numpy(seed, n, width, k, share, kind, dtype):
    generator = np.random.default_rng(seed)
    items, users = (generator.standard_normal((rows, width)).astype(np.float32) for rows in (n, 9))
    if kind == "all negative":
        items, users = np.abs(items), -np.abs(users)
    elif kind == "long tail":
        items *= np.exp(3 * generator.standard_normal((n, 1))).astype(np.float32)
    elif kind == "few values":
        items, users = np.round(items), np.round(users)
    elif kind == "zero":
        users[::2] = 0
    check(items, users, k, generator.random((9, n)) < share, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_that_differ_by_less_than_bfloat16_can_say_are_in_the_right_order(dtype):
    # 1 + j / 1000 rounds to a step of 1/128: hundreds of items look alike, and only the last ones are the best.
    items = (1 + np.random.default_rng(0).permutation(2000) / 100_000).astype(np.float32)[:, None]
    check(items, np.array([[1], [3], [-2]], np.float32), 10, np.zeros((3, 2000), bool), dtype)


def test_a_catalogue_larger_than_a_tile_and_more_users_than_a_block(monkeypatch):
    monkeypatch.setattr(top_items, "_ITEMS", 1000)
    generator = np.random.default_rng(2)
    items, users = (generator.standard_normal((rows, 8)).astype(np.float32) for rows in (3500, 300))
    for dtype in (torch.bfloat16, torch.float32):
        check(items, users, 15, generator.random((300, 3500)) < 0.01, dtype)


def test_users_to_whom_all_items_are_the_same_take_no_more_memory_than_others(monkeypatch):
    monkeypatch.setattr(top_items.Tile, "_exact", None)
    generator = np.random.default_rng(3)
    items = generator.standard_normal((3000, 16)).astype(np.float32)
    for users in (np.zeros((4, 16), np.float32), np.full((1, 16), 1e-30, np.float32)):
        check(np.zeros_like(items) if users.any() else items, users, 10, np.zeros((len(users), 3000), bool), None)


def test_the_type_is_one_of_both():
    items = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    check(items, items[:3], 1, np.zeros((3, 2000), bool), None)


def test_users_are_finished_when_no_item_that_is_left_can_be_better(monkeypatch):
    generator, scored = np.random.default_rng(4), []
    items, users = (generator.standard_normal((rows, 8)).astype(np.float32) for rows in (3000, 300))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[::30] *= 10  # a hundred of them, which is fewer than the first tile has
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, **more: scored.append(len(a) * b.shape[1]) or plain(a, b, **more))

    found = LongestFirst(torch.from_numpy(items), torch.float32)
    nothing = torch.empty(0, dtype=torch.int64)
    scores = found.top(torch.from_numpy(users), 5, (nothing, nothing))[1]
    assert sum(scored) == 300 * 320  # 300 items are ten groups of 32
    assert found.scored(torch.from_numpy(users), scores[:, -1]) == 300
    check_one(LongestFirst, items, users, 5, np.zeros((300, 3000), bool), torch.float32)

    # Users who have seen the long items need all others.
    seen = np.zeros((300, 3000), bool)
    seen[:7, ::30] = True
    scored.clear()
    check_one(LongestFirst, items, users, 5, seen, torch.float32)
    assert 300 * 320 + 7 * 2700 <= sum(scored) <= 300 * 320 + 7 * 3000
