"""Drift between two logs: counted for ranges of users in turn, with the memory of a range."""

import random

import polars as pl
import pytest

from darec.report import drift
from schemas import columns as c
from tests.memory import peak_growth


def log(seed: int, rows: int = 400) -> pl.DataFrame:
    draw = random.Random(seed)
    pairs = {(f"u{draw.randint(0, 60):02d}", f"i{draw.randint(0, 30):02d}") for _ in range(rows)}
    return pl.DataFrame(sorted(pairs), schema={c.USER: pl.String(), c.ITEM: pl.String()}, orient="row")


@pytest.mark.parametrize("rows_at_once", [1, 50, 10_000])
def test_ranges_of_users_count_what_sets_count(monkeypatch, rows_at_once):
    monkeypatch.setattr(drift, "_ROWS_AT_ONCE", rows_at_once)
    before, after = log(1), log(2).filter(pl.col(c.USER) > "u07")
    old, now = set(before.rows()), set(after.rows())
    found = drift._pairs(before.lazy(), after.lazy())
    assert (found.before, found.after, found.new, found.gone) == (len(old), len(now), len(now - old), len(old - now))


def test_memory_does_not_hold_the_logs(tmp_path):
    for name, shift in (("before", 0), ("after", 7)):
        row = pl.int_range(3_000_000, dtype=pl.Int64, eager=True)
        ids = {c.USER: "user-" + (row // 30).cast(pl.String).str.zfill(9)}
        ids[c.ITEM] = "item-" + ((row * 7919 + shift) % 50_000).cast(pl.String).str.zfill(9)
        pl.DataFrame(ids).write_parquet(tmp_path / f"{name}.parquet", row_group_size=100_000)
    setup = (
        "import polars as pl\nfrom darec.report import drift\ndrift._ROWS_AT_ONCE = 100_000\n"
        f"before, after = (pl.scan_parquet(r'{tmp_path}/' + n + '.parquet') for n in ('before', 'after'))\n"
        "drift._shares(before.head(1000), after.head(1000))"
    )
    lazily = peak_growth(setup, "drift._pairs(before, after); drift._shares(before, after)")
    eagerly = peak_growth(setup, "b, a = before.collect(), after.collect(); a.join(b, on=a.columns, how='anti')")
    assert lazily < eagerly / 2
