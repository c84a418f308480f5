"""The edge list against the dense matrices it stands for."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.dataset.graph import edge_list
from schemas.data import GraphConfig
from schemas.tables import EDGES, SPLIT_PART

MATRICES = st.integers(1, 8).flatmap(
    lambda users: st.integers(1, 8).flatmap(
        lambda items: st.lists(st.lists(st.booleans(), min_size=items, max_size=items), min_size=users, max_size=users)
    )
)


def train_of(adjacency: np.ndarray) -> pl.LazyFrame:
    users, items = np.nonzero(adjacency)
    order = np.random.default_rng(0).permutation(len(users))
    data = {"user_index": users[order], "item_index": items[order], "rating": None, "timestamp": None}
    return pl.LazyFrame(data, schema=SPLIT_PART)


@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_symmetric_weights_match_the_dense_normalised_matrix(matrix):
    adjacency = np.array(matrix, dtype=np.float64)
    edges = edge_list(train_of(adjacency), GraphConfig())
    assert edges.schema == EDGES
    found = np.zeros_like(adjacency)
    found[edges["user_index"], edges["item_index"]] = edges["weight"]
    with np.errstate(divide="ignore"):
        scale_users, scale_items = (np.where((d := adjacency.sum(axis)) > 0, d**-0.5, 0) for axis in (1, 0))
    np.testing.assert_allclose(found, scale_users[:, None] * adjacency * scale_items, rtol=1e-6)


def test_edges_are_sorted_and_may_be_unweighted():
    adjacency = np.array([[1, 1, 0], [0, 1, 1]])
    edges = edge_list(train_of(adjacency), GraphConfig(weighting="none"))
    assert edges.rows() == [(0, 0, 1.0), (0, 1, 1.0), (1, 1, 1.0), (1, 2, 1.0)]


def test_large_degrees_do_not_overflow():
    many = np.arange(70_000)
    users, items = np.concatenate([many, 0 * many[1:]]), np.concatenate([0 * many, many[1:]])
    train = pl.LazyFrame(
        {"user_index": users, "item_index": items, "rating": None, "timestamp": None}, schema=SPLIT_PART
    )
    weights = edge_list(train, GraphConfig())["weight"]
    np.testing.assert_allclose(weights.min(), 1 / 70_000, rtol=1e-6)
    np.testing.assert_allclose(weights.max(), 70_000**-0.5, rtol=1e-6)
