"""The checkerboard of `tests.data` as the tensors that training takes."""

from pathlib import Path

import polars as pl
import torch

from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import rank
from darec.training import Trained
from tests.data import write_checkerboard


def checkerboard(folder: Path, users: int = 40, items: int = 60) -> Interactions:
    """Each user's missing item of the right parity is held out: users 0, 1 (mod 4) in test, 2, 3 in val."""
    write_checkerboard(folder, users, items)
    table = pl.read_csv(folder / "interactions.csv")
    numbers = table.with_columns(pl.col("user_id", "item_id").str.slice(1).cast(pl.Int32).name.replace("_id", "_index"))
    parts = {part: Pairs.of_table(rows) for (part,), rows in numbers.group_by("split", maintain_order=True)}
    return Interactions(users, items, parts["train"], parts["val"], parts["test"])


def parity_text(interactions: Interactions, width: int = 12, noise: float = 0.1, seed: int = 0) -> Representations:
    """Text vectors whose direction tells even from odd, for users and items alike."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, width, generator=generator)
    parity = torch.cat([torch.arange(interactions.n_users) % 2, torch.arange(interactions.n_items) % 2])
    rows = directions[parity] + noise * torch.randn(interactions.n_nodes, width, generator=generator)
    return Representations(rows, interactions.n_users)


def losses_of(trained: Trained) -> list[float]:
    """Total loss of each epoch."""
    rows = trained.history.filter(pl.col("name").str.starts_with("loss/"))
    return rows.group_by("epoch", maintain_order=True).agg(pl.col("value").sum())["value"].to_list()


def found_first(trained: Trained, interactions: Interactions) -> float:
    """The share of test users whose held-out item has the first place."""
    held_out = interactions.test
    ranking = rank(trained.final, interactions.train, held_out, 1)
    right = dict(zip(held_out.users.tolist(), held_out.items.tolist(), strict=True))
    firsts = zip(ranking.users.tolist(), ranking.top[:, 0].tolist(), strict=True)
    return sum(right[user] == item for user, item in firsts) / len(right)
