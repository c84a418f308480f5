"""Folders of benchmark data that somebody brings: what is refused, and with which words."""

import numpy as np
import polars as pl
import pytest

from benchmarks.data import from_folder
from darec.common.errors import UserError
from tests.bench_samples import write_board


@pytest.fixture
def board(tmp_path):
    return write_board(tmp_path)


def change(folder, *columns):
    path = folder / "interactions.parquet"
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def first(column, value):
    """The column with another first value."""
    return pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(pl.col(column)).alias(column)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([pl.col("user_id").cast(pl.String)], "user_id is String, not a whole number"),
        ([pl.col("item_id").cast(pl.Float64)], "item_id is Float64, not a whole number"),
        ([first("user_id", None)], "1 rows have no user_id"),
        ([first("item_id", -1)], "item_id -1 is negative"),
        ([first("user_id", 10**9)], "user_id goes up to 1,000,000,000, but there are"),
        ([pl.col("split").replace("val", "valid")], "split has the values valid"),
        ([first("split", None)], "split has the values None"),
        ([pl.col("split").replace("test", "train")], "no row has the split test"),
        ([pl.lit("2020-01-01").alias("timestamp")], "timestamp is String, not whole seconds"),
        ([pl.lit(1_600_000_000_000).alias("timestamp")], "timestamp 1600000000000 is not in seconds"),
    ],
)
def test_interactions_of_another_layout(board, columns, message):
    change(board, *columns)
    with pytest.raises(UserError, match=message):
        from_folder("mine", board)


def test_repeated_pairs(board):
    path = board / "interactions.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table.head(3).with_columns(split=pl.lit("test"))]).write_parquet(path)
    with pytest.raises(UserError, match="3 rows repeat the user and the item"):
        from_folder("mine", board)


def test_another_format(board):
    (board / "interactions.parquet").write_text("user_id,item_id,split\n")
    with pytest.raises(UserError, match="not a Parquet file"):
        from_folder("mine", board)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (lambda text: text[:-1], r"rows for ids up to"),
        (lambda text: text[:, :-1], r"users have \d+ columns, items \d+"),
        (lambda text: text[:, 0], r"a matrix of numbers is needed, not float16 \(\d+,\)"),
        (lambda text: text.astype(str), "a matrix of numbers is needed, not <U"),
        (lambda text: text.astype(object), "not a NumPy file of numbers"),
        (lambda text: np.where(np.arange(len(text))[:, None] == 2, np.nan, text), "some values are not finite"),
    ],
)
def test_text_vectors_that_do_not_fit(board, array, message):
    path = board / "item_text.npy"
    np.save(path, array(np.load(path)))
    with pytest.raises(UserError, match=message):
        from_folder("mine", board)


def test_text_vectors_of_items_alone(board):
    (board / "user_text.npy").unlink()
    with pytest.raises(UserError, match=r"one of user_text.npy and item_text.npy is missing \[.*user_text.npy\]"):
        from_folder("mine", board)


def test_rows_of_items_without_interactions_are_read(board):
    path = board / "item_text.npy"
    text = np.load(path)
    np.save(path, np.concatenate([text, text[:2]]))
    data = from_folder("mine", board)
    assert data.interactions.n_items == len(text) + 2


def test_no_text_vectors(board):
    for file in ("user_text.npy", "item_text.npy"):
        (board / file).unlink()
    assert from_folder("mine", board).text is None
