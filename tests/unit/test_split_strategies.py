"""Splits by one point in time, leave-one-out and with val taken from train; weights that reach the graph."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from darec.common.errors import UserError
from darec.dataset.graph import edge_list
from darec.dataset.split import split_interactions
from schemas import columns as c
from schemas.data import GraphConfig, SplitConfig
from schemas.tables import INTERACTIONS, SPLIT_PART

DAY = 86_400
ROWS = [(f"u{user}", f"i{item}", user * 3 + item) for user in range(6) for item in range(5)]  # user, item, day


def table(rows=ROWS, labels=None, times=True, **extra) -> pl.DataFrame:
    users, items, days = zip(*rows, strict=True)
    seconds = [day * DAY for day in days] if times else None
    data = {"user_id": users, "item_id": items, "rating": None, "timestamp": seconds, "split": labels}
    return pl.DataFrame(data, schema=INTERACTIONS).with_columns(**extra)


def split(interactions=None, **options):
    return split_interactions(table() if interactions is None else interactions, SplitConfig(k_core=0, **options))


def days(found, part: str) -> list[int]:
    return sorted(found.parts[part]["timestamp"] // DAY)


def test_one_point_in_time_for_all_users():
    found = split(strategy="global-time", ratios=(0.6, 0.2, 0.2))
    assert max(days(found, "train")) < min(days(found, "val")) <= max(days(found, "val")) < min(days(found, "test"))
    assert found.report["rows_out"] == len(ROWS)
    assert found.report["test_cold_users"] == found.report["cold_users"] == 2, "u4 and u5 begin after train"
    assert found.report["test_cold_items"] == 0


def test_a_gap_leaves_out_what_is_just_before():
    found = split(strategy="global-time", ratios=(0.6, 0.2, 0.2), gap_days=2)
    assert min(days(found, "val")) - max(days(found, "train")) > 2
    assert min(days(found, "test")) - max(days(found, "val")) > 2
    assert found.report["rows_out"] < len(ROWS)
    indices = pl.concat(found.parts.values())[c.USER_INDEX].unique().sort().to_list()
    assert indices == list(range(found.report["users"]))


@pytest.mark.parametrize("times", [True, False])
def test_leave_one_out(times):
    found = split(table(times=times), strategy="leave-one-out")
    for part, rows in (("train", 3), ("val", 1), ("test", 1)):
        assert found.parts[part].group_by(c.USER_INDEX).len()["len"].to_list() == [rows] * 6
    if times:
        assert set(found.parts["test"][c.ITEM_INDEX]) == {4} and set(found.parts["val"][c.ITEM_INDEX]) == {3}


def test_val_is_taken_from_train_where_the_source_has_none():
    labels = ["test" if item == "i4" else "train" for _, item, _ in ROWS]
    with pytest.raises(UserError, match="no interaction is labelled val.*split.val_share"):
        split(table(labels=labels), strategy="column")
    found = split(table(labels=labels), strategy="column", val_share=0.25)
    assert [found.parts[part].height for part in ("train", "val", "test")] == [18, 6, 6]
    assert set(found.parts["val"][c.ITEM_INDEX]) == {3}


def test_a_point_in_time_needs_times():
    with pytest.raises(UserError, match="global-time split needs timestamps"):
        split(table(times=False), strategy="global-time")


def test_weights_reach_the_edges_only_if_asked():
    weights = pl.Series([1.0, 3.0, 1.0], dtype=pl.Float32)
    rows = pl.DataFrame(
        {c.USER_INDEX: [0, 0, 1], c.ITEM_INDEX: [0, 1, 1], c.RATING: None, c.TIMESTAMP: None}, SPLIT_PART
    )
    weighted = rows.with_columns(weight=weights)
    plain = edge_list(rows.lazy(), GraphConfig())
    assert_frame_equal(edge_list(weighted.lazy(), GraphConfig()), plain)
    linear = edge_list(weighted.lazy(), GraphConfig(event_weights="linear"))
    assert linear["weight"].to_list() == pytest.approx([1 / (4 * 1) ** 0.5, 3 / (4 * 4) ** 0.5, 1 / (1 * 4) ** 0.5])
    log = edge_list(weighted.lazy(), GraphConfig(weighting="none", event_weights="log"))
    assert log["weight"].to_list() == pytest.approx([0.6931472, 1.3862944, 0.6931472])
    with pytest.raises(UserError, match="no weights"):
        edge_list(rows.lazy(), GraphConfig(event_weights="log"))


def test_weights_and_the_order_below_a_second_go_through_the_split():
    rows = table(
        [(user, item, 1) for user, item, _ in ROWS],
        nanosecond=pl.int_range(30, dtype=pl.Int32),
        weight=pl.lit(2, pl.Float32),
    )
    found = split(rows)
    assert set(found.parts["test"][c.ITEM_INDEX]) == {4} and found.parts["train"]["weight"].to_list()[0] == 2
