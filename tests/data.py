"""A tiny data set whose right answers are known in advance."""

from pathlib import Path

import numpy as np
import polars as pl

_DAY = 86_400
_START = 1_700_000_000

CHECKERBOARD = {
    "source": "csv",
    "interactions": "interactions.csv",
    "items": "items.csv",
    "users": "users.csv",
    "interaction_columns": {"rating": "rating", "timestamp": "timestamp"},
}
"""The section `data` of a recipe in the folder of `write_checkerboard`."""


def write_checkerboard(folder: Path, users: int = 40, items: int = 24, seed: int = 0) -> None:
    """Writes interactions.csv, items.csv and users.csv: even users like all even items, odd users all odd ones.

    interactions.csv: user_id, item_id, rating (4 or 5), timestamp (one a day), split. Each user's order of items is
    drawn from `seed`; its last one is held out, as test for the users 0, 1 (mod 4) and as val for the users
    2, 3 (mod 4), so it is the one item of the user's parity that train does not show: the right top-1.
    items.csv: item_id, title, description, year, genres (Comedy for even items, Horror for odd ones).
    users.csv: user_id, age, gender. Ids are u000... and i000..., their number being the row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    _interactions(users, items, generator).write_csv(folder / "interactions.csv")
    _items(items).write_csv(folder / "items.csv")
    _users(users).write_csv(folder / "users.csv")


def _interactions(users: int, items: int, generator: np.random.Generator) -> pl.DataFrame:
    parts = []
    for user in range(users):
        liked = generator.permutation(np.arange(user % 2, items, 2))
        days = np.arange(len(liked))
        parts.append(
            pl.DataFrame(
                {
                    "user_id": [f"u{user:03d}"] * len(liked),
                    "item_id": [f"i{item:03d}" for item in liked],
                    "rating": generator.integers(4, 6, len(liked)),
                    "timestamp": _START + days * _DAY + user,
                    "split": ["train"] * (len(liked) - 1) + ["test" if user % 4 < 2 else "val"],
                }
            )
        )
    return pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=int(generator.integers(2**31)))


def _items(items: int) -> pl.DataFrame:
    numbers = range(items)
    names, genres = ("Merry Picnic", "Haunted Cellar"), ("Comedy", "Horror")
    moods = ("A light story full of jokes.", "A dark story full of ghosts.")
    return pl.DataFrame(
        {
            "item_id": [f"i{item:03d}" for item in numbers],
            "title": [f"{names[item % 2]} {item}" for item in numbers],
            "description": [moods[item % 2] for item in numbers],
            "year": [1980 + item for item in numbers],
            "genres": [genres[item % 2] for item in numbers],
        }
    )


def _users(users: int) -> pl.DataFrame:
    numbers = range(users)
    return pl.DataFrame(
        {
            "user_id": [f"u{user:03d}" for user in numbers],
            "age": [20 + user for user in numbers],
            "gender": ["FM"[user % 2] for user in numbers],
        }
    )


def write_tastes(folder: Path, users: int = 400, items: int = 200, each: int = 25, seed: int = 0) -> None:
    """Writes interactions.csv: user_id, item_id, timestamp; every user likes items near to it in a space of tastes.

    There is something to learn and much that is not: a model is far better than popularity and far from perfect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tastes, kinds = generator.standard_normal((users, 6)), generator.standard_normal((items, 6))
    fame = generator.exponential(0.5, items)
    wanted = 1.5 * tastes @ kinds.T / np.sqrt(6) + fame + generator.gumbel(size=(users, items))
    liked = np.argsort(-wanted, axis=1)[:, :each]
    times = _START + generator.integers(0, 300 * _DAY, liked.shape)
    numbers = np.repeat(np.arange(users), each)
    rows = {"user_id": numbers, "item_id": liked.ravel(), "timestamp": times.ravel()}
    table = pl.DataFrame(rows).with_columns(
        pl.format("u{}", pl.col("user_id").cast(pl.String).str.zfill(3)).alias("user_id"),
        pl.format("i{}", pl.col("item_id").cast(pl.String).str.zfill(3)).alias("item_id"),
    )
    table.write_csv(folder / "interactions.csv")
