"""A benchmark folder and recipe small enough for tests: the checkerboard with text that tells the parity."""

from pathlib import Path

import numpy as np
import polars as pl

from tests.checkerboard import checkerboard, parity_text

RECIPE = """
name: tiny
data: {{ board: {folder} }}
base:
  dim: 8
  epochs: 4
  eval_every: 2
  batch_size: 256
  checkpoint_every: 1
  backbone: {{ name: lightgcn, layers: 1 }}
  device: cpu
alignments:
  none: {{ alignment: [] }}
  darec: {{ alignment: [{{ name: darec, sample: 32, centres: 2, width: 8, shared: 0.5, text_parts: network }}] }}
seeds: [0, 1]
"""


def write_board(folder: Path) -> Path:
    """interactions.parquet, user_text.npy, item_text.npy in `folder`."""
    interactions = checkerboard(folder)
    parts = {"train": interactions.train, "val": interactions.val, "test": interactions.test}
    tables = [
        pl.DataFrame({"user_id": pairs.users.numpy(), "item_id": pairs.items.numpy(), "split": part})
        for part, pairs in parts.items()
    ]
    pl.concat([table.with_columns(pl.col("split").cast(pl.String)) for table in tables]).write_parquet(
        folder / "interactions.parquet"
    )
    text = parity_text(interactions)
    np.save(folder / "user_text.npy", text.user.numpy().astype(np.float16))
    np.save(folder / "item_text.npy", text.item.numpy().astype(np.float16))
    return folder


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """A board and a recipe over it."""
    path = folder / "recipe.yaml"
    path.write_text(text.format(folder=write_board(folder / "board")))
    return path
