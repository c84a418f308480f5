"""The choice of a user's items: a seeded, order-free sample that new interactions seldom change."""

import numpy as np
import polars as pl

from darec.text.histories import choose_items, pair_priority
from schemas import columns as c


def interactions(seed: int, n: int, users: int = 300, items: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    activity = random.pareto(1.5, users) + 0.5
    user = random.choice(users, n, p=activity / activity.sum())
    pairs = pl.DataFrame({c.USER: user, c.ITEM: random.integers(0, items, n)}).cast(pl.String)
    return pairs.unique(maintain_order=True)


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
    other = choose_items(table, 4, 1)
    assert not other.equals(choose_items(table, 4, 0))


def test_priorities_are_uniform_and_never_change() -> None:
    users = pl.Series([str(n % 50) for n in range(10_000)])
    items = pl.Series([str(n // 50) for n in range(10_000)])
    priority = pair_priority(users, items, 0)
    assert np.unique(priority).size == 10_000
    assert abs(float((priority / 2**64).mean()) - 0.5) < 0.02
    assert pair_priority(pl.Series(["ann"]), pl.Series(["alien"]), 7).tolist() == [12715592817327284426]
