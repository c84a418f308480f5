"""The division into train, val and test: complete, without leaks, and the same whatever the order of the rows."""

import pickle
from itertools import pairwise

import networkx as nx
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from darec.common.id_hashing import hash_ids
from darec.dataset.errors import AnswerableError
from darec.dataset.split import Split, k_core, split_interactions
from schemas.data import SplitConfig
from schemas.reports import SplitReport
from schemas.tables import INTERACTIONS, ITEM_VOCABULARY, PARTS, SPLIT_PART, USER_VOCABULARY


def interactions(rows: list[tuple[str, str, int]], labels: list[str] | None = None) -> pl.DataFrame:
    users, items, times = zip(*rows, strict=True)
    data = {"user_id": users, "item_id": items, "rating": None, "timestamp": times, "split": labels}
    return pl.DataFrame(data, schema=INTERACTIONS)


def with_ids(split: Split) -> pl.DataFrame:
    parts = [table.with_columns(split=pl.lit(part)) for part, table in split.parts.items()]
    return pl.concat(parts).join(split.users, on="user_index").join(split.items, on="item_index")


@st.composite
def data_sets(draw):
    """Unique pairs of up to 8 users and 8 items, in which enough users have three rows."""
    pairs = [(f"u{u}", f"i{i}") for u in range(8) for i in range(8)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=4, max_size=40, unique=True))
    chosen = sorted({*chosen, ("u0", "i0"), ("u0", "i1"), ("u0", "i2"), ("u1", "i0")})
    times = draw(st.lists(st.integers(0, 5), min_size=len(chosen), max_size=len(chosen)))
    return [(user, item, time) for (user, item), time in zip(chosen, times, strict=True)]


PINNED = [
    2500434509708612314,
    16419517773339319985,
    4268169277138447170,
    6959654629376784558,
    15274248084343045123,
]
STRATEGIES = st.sampled_from(["temporal", "random"])


@settings(max_examples=60, deadline=None)
@given(rows=data_sets(), strategy=STRATEGIES, seed=st.integers(0, 3))
def test_parts_are_a_partition_and_every_user_keeps_train_rows(rows, strategy, seed):
    split = split_interactions(interactions(rows), SplitConfig(strategy=strategy, k_core=0, seed=seed))
    found = with_ids(split)
    assert sorted(found.select("user_id", "item_id", "timestamp").rows()) == sorted(rows)
    in_train = set(found.filter(pl.col("split") == "train")["user_id"])
    assert in_train == {user for user, _, _ in rows}
    assert split.report["cold_users"] == 0
    assert split.report["below_k_core"] == {"users": 0, "items": 0}


def test_what_the_k_core_leaves_out_is_said():
    core = [(f"u{user}", f"i{item}", item) for user in range(3) for item in range(3)]
    split = split_interactions(interactions([*core, ("u0", "rare", 9), ("once", "i0", 9)]), SplitConfig(k_core=2))
    assert split.report["rows_in"] - split.report["rows_out"] == 2
    report = SplitReport.model_validate(split.report)
    assert report.remarks[0] == "fewer interactions than split.k_core, so not in the release: 1 user and 1 item"


@settings(max_examples=60, deadline=None)
@given(
    rows=data_sets(),
    catalogue=st.lists(st.sampled_from([f"i{n}" for n in range(12)]), unique=True),
    k=st.integers(0, 3),
    strategy=STRATEGIES,
)
def test_all_items_of_the_catalogue_and_of_the_remaining_users_are_kept(rows, catalogue, k, strategy):
    """`k_core` applies to users only, and each pair has the numbers of its ids."""
    counts = {user: sum(row[0] == user for row in rows) for user, _, _ in rows}
    kept = [row for row in rows if counts[row[0]] >= k]
    assume(len({user for user, _, _ in kept}) >= 2 and len({item for _, item, _ in kept}) >= 2)
    config = SplitConfig(strategy=strategy, k_core=k, items="all")
    split = split_interactions(interactions(rows), config, pl.Series("item_id", catalogue, dtype=pl.String))

    assert sorted(with_ids(split).select("user_id", "item_id", "timestamp").rows()) == sorted(kept)
    assert split.items["item_id"].to_list() == sorted({*catalogue, *(item for _, item, _ in kept)})
    assert split.items["item_index"].to_list() == list(range(len(split.items)))
    lost = {item for _, item, _ in rows} - set(split.items["item_id"])
    assert split.report["below_k_core"] == {"users": len(counts) - len(split.users), "items": len(lost)}


def test_a_gap_in_time_leaves_out_no_item_of_the_catalogue():
    rows = [(f"u{n % 2}", f"i{n}", n * 86_400) for n in range(10)]
    config = SplitConfig(strategy="global-time", k_core=0, items="all", gap_days=1, ratios=(0.4, 0.3, 0.3))
    split = split_interactions(interactions(rows), config, pl.Series("item_id", ["i10"]))
    assert split.report["rows_out"] < 10 and split.items["item_id"].to_list() == sorted(f"i{n}" for n in range(11))
    assert {(row[0], row[1]) for row in with_ids(split).select("user_id", "item_id").rows()} < {row[:2] for row in rows}


@settings(max_examples=60, deadline=None)
@given(rows=data_sets())
def test_a_temporal_split_shows_no_user_its_future(rows):
    split = split_interactions(interactions(rows), SplitConfig(k_core=0))
    spans = (
        with_ids(split)
        .group_by("user_id", "split")
        .agg(pl.min("timestamp").alias("first"), pl.max("timestamp").alias("last"))
    )
    span = {(user, part): (first, last) for user, part, first, last in spans.iter_rows()}
    for user in {row[0] for row in rows}:
        present = [span[user, part] for part in PARTS if (user, part) in span]
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(present))


@settings(max_examples=60, deadline=None)
@given(rows=data_sets(), strategy=STRATEGIES, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, strategy, random):
    config = SplitConfig(strategy=strategy, k_core=0)
    first = split_interactions(interactions(rows), config)
    random.shuffle(rows)
    second = split_interactions(interactions(rows), config)
    assert first.report == second.report
    for part in PARTS:
        assert_frame_equal(first.parts[part], second.parts[part])
    assert_frame_equal(first.users, second.users)
    assert_frame_equal(first.items, second.items)


@settings(max_examples=60, deadline=None)
@given(rows=data_sets(), k=st.integers(1, 4))
def test_the_k_core_is_the_largest_fixed_point(rows, k):
    table = pl.DataFrame(
        {"user_index": [int(u[1:]) for u, _, _ in rows], "item_index": [int(i[1:]) for _, i, _ in rows]}
    )
    core, _ = k_core(table, k)
    graph = nx.Graph([(("u", user), ("i", item)) for user, item in table.iter_rows()])
    expected = nx.k_core(graph, k)
    assert {(("u", user), ("i", item)) for user, item in core.iter_rows()} == {
        tuple(sorted(edge, reverse=True)) for edge in expected.edges
    }


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (7, 1, 2)), (20, (14, 2, 4))],
)
def test_sizes_of_one_users_parts(count, sizes):
    rows = [("u", f"i{number:02d}", number) for number in range(count)]
    rows += [("other", f"i{number:02d}", number) for number in range(10)]
    split = split_interactions(interactions(rows), SplitConfig(k_core=0))
    parts = with_ids(split).filter(pl.col("user_id") == "u").sort("timestamp")["split"].to_list()
    assert tuple(parts.count(part) for part in PARTS) == sizes
    assert parts == [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]


def test_files_follow_their_schemas_and_ids_are_numbered_in_their_order():
    rows = [(user, f"i{number}", number) for user in ("b", "ä", "a", "10", "9") for number in range(3)]
    split = split_interactions(interactions(rows), SplitConfig(k_core=0))
    assert split.users.schema == USER_VOCABULARY
    assert split.items.schema == ITEM_VOCABULARY
    assert all(table.schema == SPLIT_PART for table in split.parts.values())
    assert split.users.rows() == [(0, "10"), (1, "9"), (2, "a"), (3, "b"), (4, "ä")]


def test_a_random_draw_changes_with_the_seed_but_not_with_other_users():
    rows = [(f"u{user}", f"i{number:02d}", 0) for user in range(20) for number in range(10)]

    def chosen(rows, seed):
        split = split_interactions(interactions(rows), SplitConfig(strategy="random", k_core=0, seed=seed))
        return set(
            with_ids(split)
            .filter(pl.col("split") == "test", pl.col("user_id") != "new")
            .select("user_id", "item_id")
            .rows()
        )

    grown = [*rows, *[("new", f"a{number}", 0) for number in range(10)]]
    assert chosen(rows, 0) == chosen(grown, 0)
    assert chosen(rows, 0) != chosen(rows, 1)


def test_a_random_draw_is_even():
    rows = [(f"user {user}", f"item {number}", 0) for user in range(2000) for number in range(10)]
    split = split_interactions(interactions(rows), SplitConfig(strategy="random", k_core=0))
    tests = split.parts["test"]["item_index"].value_counts()["count"].cast(pl.Int64).to_numpy()
    assert np.abs(tests - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_a_given_split_is_taken_as_it_is_and_cold_entities_keep_their_number():
    rows = [("a", "x", 1), ("a", "y", 2), ("b", "x", 1), ("b", "late", 9), ("new", "x", 5)]
    labels = ["train", "val", "train", "test", "test"]
    split = split_interactions(interactions(rows, labels), SplitConfig(strategy="column"))
    found = with_ids(split).select("user_id", "item_id", "split").sort("user_id", "item_id").rows()
    assert found == sorted((user, item, label) for (user, item, _), label in zip(rows, labels, strict=True))
    assert split.users["user_id"].to_list() == ["a", "b", "new"]
    assert split.items["item_id"].to_list() == ["late", "x", "y"]
    assert (split.report["cold_users"], split.report["cold_items"]) == (1, 2)


def test_the_hash_of_an_id_is_fixed_for_ever():
    ids = pl.Series(["1", "2", "u00001", "ünïcode", "x" * 100_000])
    hashes = hash_ids(ids)
    assert hashes.tolist() == PINNED
    assert hash_ids(ids.reverse()).tolist() == PINNED[::-1]


def test_hashes_of_many_ids_differ():
    ids = pl.Series([f"{kind}{number}" for kind in ("", "u", "user_") for number in range(50_000)])
    assert len(np.unique(hash_ids(ids))) == len(ids)


def test_the_error_of_a_k_core_reaches_another_process_with_its_settings():
    rows = [("u1", "i1", 1), ("u2", "i2", 2)]
    with pytest.raises(AnswerableError) as caught:
        split_interactions(interactions(rows), SplitConfig(k_core=5))
    received = pickle.loads(pickle.dumps(caught.value))
    assert (str(received), received.settings) == (str(caught.value), {"split": {"k_core": 0}})
