"""The choice of a user's items: a seeded, order-free sample that new interactions seldom change."""

import numpy as np
import polars as pl

from darec.common import ranges
from darec.text.histories import choose_pairs, pair_priority
from schemas import columns as c
from tests.memory import peak_growth


def interactions(seed: int, n: int, users: int = 300, items: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    activity = random.pareto(1.5, users) + 0.5
    user = random.choice(users, n, p=activity / activity.sum())
    pairs = pl.DataFrame({c.USER: user, c.ITEM: random.integers(0, items, n)}).cast(pl.String)
    return pairs.unique(maintain_order=True)


def choose_items(table: pl.DataFrame, k: int, seed: int) -> pl.DataFrame:
    """The rows of external ids that are chosen."""
    users, items = (
        table.select(pl.col(name).unique().sort()).with_row_index(number).cast({number: pl.Int32})
        for name, number in ((c.USER, c.USER_INDEX), (c.ITEM, c.ITEM_INDEX))
    )
    numbered = table.join(users, on=c.USER, maintain_order="left").join(items, on=c.ITEM, maintain_order="left")
    chosen = choose_pairs(numbered.with_columns(pl.lit(None, pl.Float32).alias(c.RATING)), users, items, k, seed)
    return chosen.join(users, on=c.USER_INDEX).join(items, on=c.ITEM_INDEX).select(c.USER, c.ITEM)


def prompts(table: pl.DataFrame, k: int = 4) -> dict[str, tuple[str, ...]]:
    chosen = choose_items(table, k, 0).sort(c.USER, c.ITEM)
    return {user: tuple(rows[c.ITEM]) for (user,), rows in chosen.group_by(c.USER)}


def test_it_takes_k_distinct_items_or_all_there_are() -> None:
    table = interactions(0, 8_000)
    sizes = dict(table.group_by(c.USER).len().iter_rows())
    assert {user: len(set(items)) for user, items in prompts(table).items()} == {u: min(4, n) for u, n in sizes.items()}


def test_one_percent_more_interactions_changes_at_most_a_tenth_of_the_prompts() -> None:
    both = interactions(1, 20_200)
    before = both.head(round(both.height / 1.01))
    old, new = prompts(before), prompts(both)
    changed = [user for user in old if old[user] != new[user]]
    assert both.height > before.height
    assert len(changed) <= 0.1 * len(old)


def test_order_does_not_matter_and_the_seed_does() -> None:
    table = interactions(2, 3_000)
    assert prompts(table) == prompts(table.sample(fraction=1, shuffle=True, seed=5))
    one, other = (set(choose_items(table, 4, seed).rows()) for seed in (0, 1))
    assert one != other


def test_priorities_are_uniform_and_never_change() -> None:
    users = pl.Series([str(n % 50) for n in range(10_000)])
    items = pl.Series([str(n // 50) for n in range(10_000)])
    priority = pair_priority(users, items, 0)
    assert np.unique(priority).size == 10_000
    assert abs(float((priority / 2**64).mean()) - 0.5) < 0.02
    assert pair_priority(pl.Series(["ann"]), pl.Series(["alien"]), 7).tolist() == [12715592817327284426]


def test_the_lowest_priorities_are_chosen_in_any_ranges(monkeypatch) -> None:
    table = interactions(3, 4_000, users=40)
    priorities = table.with_columns(pl.Series("p", pair_priority(table[c.USER], table[c.ITEM], 0)))
    expected = priorities.filter(pl.col("p").rank("ordinal").over(c.USER) <= 5)
    for rows in (1, 100, 10_000):
        monkeypatch.setattr(ranges, "_ROWS", rows)
        assert set(choose_items(table, 5, 0).rows()) == set(expected.select(c.USER, c.ITEM).rows())


def test_texts_are_not_joined_to_every_interaction(tmp_path) -> None:
    """Peak memory of choosing three items a user is that of numbers: some tens of bytes an interaction."""
    rows = 2_000_000
    setup = (
        "import numpy as np, polars as pl\nfrom darec.common import ranges\n"
        "from darec.text.histories import choose_pairs\n"
        f"ranges._ROWS = 100_000\nn = {rows}\ndraw = np.random.default_rng(0)\n"
        "train = pl.DataFrame({'user_index': draw.integers(0, n // 50, n), 'item_index': draw.integers(0, 1000, n)})\n"
        "train = train.with_columns(rating=pl.lit(5.0)).cast({'user_index': pl.Int32, 'item_index': pl.Int32})\n"
        "train = train.cast({'rating': pl.Float32}).sort('user_index')\n"
        f"train.write_parquet(r'{tmp_path}/train.parquet')\ndel train\n"
        "ids = lambda c, k: pl.DataFrame({f'{c}_index': range(k), f'{c}_id': [f'{c}{i}' for i in range(k)]})\n"
        "users, items = (ids(*x).cast({f'{x[0]}_index': pl.Int32}) for x in (('user', n // 50), ('item', 1000)))\n"
        f"scan = pl.scan_parquet(r'{tmp_path}/train.parquet')\nchoose_pairs(scan.head(1000), users, items, 3, 0)\n"
    )
    assert peak_growth(setup, "choose_pairs(scan, users, items, 3, 0)") < 60 * rows
