"""What is left out is counted; what is kept is one row per pair."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from darec.common.errors import UserError
from darec.dataset.clean import CleanData, clean
from darec.dataset.readers import read_source
from schemas.data import DataConfig, InteractionColumns
from schemas.reports import IngestReport

ALL = InteractionColumns(rating="rating", timestamp="timestamp")


def run(folder: Path, text: str, items: str | None = None, **options) -> CleanData:
    (folder / "x.csv").write_text(text)
    if items is not None:
        (folder / "i.csv").write_text(items)
        options["items"] = folder / "i.csv"
    options = {"interaction_columns": ALL, "max_bad_share": 1.0, "timestamp_unit": "order"} | options
    config = DataConfig(source="csv", interactions=folder / "x.csv", **options)
    return clean(read_source(config, folder / "unpacked"), config)


def test_each_problem_is_counted_once_and_its_rows_left_out(tmp_path):
    text = """user_id,item_id,rating,timestamp
u1,i1,5,1500000000
 ,i1,five,1500000000
u1,NULL,5,1500000000
1E+16,i1,5,1500000000
u1,i2,good,1500000000
u1,i2,,1500000000
u1,i2,NaN,1500000000
u1,i2,-inf,1500000000
u1,i2,5,yesterday
u1,i2,5,-1
u1,i2,5,15143222
u1,i1,5,1500000000,more
u1,i9,5,1500000000
u2,i2,3,1500000000

"""
    items = "item_id,title\ni1,One\ni2,Two\n"
    data = run(tmp_path, text, items=items, timestamp_unit=None)
    assert {cause: rows for cause, rows in data.report["left_out"].items() if rows} == {
        "blank": 1,
        "more_fields": 1,
        "empty_user": 1,
        "empty_item": 1,
        "mangled_user": 1,
        "not_a_number": 2,
        "not_finite": 2,
        "not_a_time": 1,
        "implausible_time": 2,
        "unknown_item": 1,
        "below_min_rating": 1,
    }
    assert data.report["lost"] == {
        "more_fields": {"rows": 1, "example": "'more'"},
        "empty_user": {"rows": 1, "example": "' '"},
        "empty_item": {"rows": 1, "example": "'NULL'"},
        "mangled_user": {"rows": 1, "example": "'1E+16'"},
        "not_a_number": {"rows": 2, "example": "'five'"},
        "not_finite": {"rows": 2, "example": "'NaN'"},
        "not_a_time": {"rows": 1, "example": "'yesterday'"},
        "implausible_time": {"rows": 2, "example": "'-1'"},
        "unknown_item": {"rows": 1, "example": "'i9'"},
    }
    assert data.interactions.rows() == [("u1", "i1", 5.0, 1500000000, None)]
    assert (data.report["rows_in"], data.report["rows_out"]) == (14, 1)
    assert data.items["item_id"].to_list() == ["i1", "i2"], "items nobody liked stay in the catalogue"


def test_a_users_last_word_counts(tmp_path):
    text = "user_id,item_id,rating,timestamp\nu,a,5,1\nu,a,2,2\nu,b,1,1\nu,b,4,2\nu,c,4,7\nu,c,5,7\n"
    data = run(tmp_path, text)
    assert data.interactions.select("item_id", "rating").rows() == [("b", 4.0), ("c", 5.0)]
    assert data.report["left_out"]["duplicate"] == 3
    assert data.report["left_out"]["below_min_rating"] == 1


def test_a_pair_in_two_parts_stays_in_train(tmp_path):
    columns = InteractionColumns(timestamp="timestamp", split="split")
    text = "user_id,item_id,timestamp,split\nu,a,9,test\nu,a,1,train\nu,b,3,val\n"
    data = run(tmp_path, text, interaction_columns=columns)
    assert data.interactions.select("item_id", "timestamp", "split").rows() == [("a", 1, "train"), ("b", 3, "val")]


def test_without_a_threshold_or_ratings_nothing_is_below_it(tmp_path):
    text = "user_id,item_id,rating,timestamp\nu,a,1,1\n"
    assert run(tmp_path, text, min_rating=None).report["rows_out"] == 1
    assert run(tmp_path, text, interaction_columns=InteractionColumns()).report["rows_out"] == 1


def test_few_malformed_rows_are_left_out_and_many_refused(tmp_path):
    good = "".join(f"u{i},a,5,1\n" for i in range(9))
    text = f"user_id,item_id,rating,timestamp\n{good}u,a,x,1\n"
    assert run(tmp_path, text, max_bad_share=0.1).report["left_out"]["not_a_number"] == 1
    with pytest.raises(UserError, match="1 of 10 rows would be lost .not_a_number 1., such as 'x'"):
        run(tmp_path, text, max_bad_share=0.09)


def test_equal_item_rows_are_merged_and_rows_without_id_left_out(tmp_path):
    items = "item_id,title,genre\na,A,x\na,A,x\n,B,y\n"
    data = run(tmp_path, "user_id,item_id,rating,timestamp\nu,a,5,1\n", items=items)
    assert data.items["item_id"].to_list() == ["a"]
    assert data.report["items_file"] == {"rows_in": 3, "empty_id": 1, "duplicate": 1, "without_interactions": 0}


def test_items_and_users_of_the_files_that_no_like_mentions_are_counted_and_said(tmp_path):
    log = "user_id,item_id,rating,timestamp\nu,a,5,1\nu,b,1,1\n"
    report = IngestReport.model_validate(run(tmp_path, log, items="item_id,title\na,A\nb,B\nc,C\n").report)
    assert report.items_file["without_interactions"] == 2, "b is no like of anybody"
    assert report.remarks == (
        "2 of 3 rows of the items file have no interactions: split.items: all keeps them in the release",
    )


def test_titles_are_one_line_and_never_empty(tmp_path):
    items = 'item_id,title\na,"  two\n lines "\nb,\nc,"   "\n'
    data = run(tmp_path, "user_id,item_id,rating,timestamp\nu,a,5,1\n", items=items)
    assert data.items["title"].to_list() == ["two lines", "b", "c"]


ROWS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 3)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS, random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_every_row_is_accounted_for(tmp_path_factory, rows, random):
    folder = tmp_path_factory.mktemp("clean")
    tables = []
    for _ in range(2):
        text = "user_id,item_id,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows)
        data = run(folder, text, min_rating=None)
        assert data.report["rows_out"] + sum(data.report["left_out"].values()) == len(rows)
        tables.append(data.interactions)
        random.shuffle(rows)
    assert_frame_equal(*tables)
    assert not tables[0].select(pl.struct("user_id", "item_id").is_duplicated()).to_series().any()
