"""Stores of small whole runs without an LLM, what is in them, and a fault for any file."""

import sqlite3
from contextlib import closing
from pathlib import Path

from darec.artifacts.store import Store
from tests.data import write_checkerboard

RECIPE = """
data:
  source: csv
  interactions: {data}/interactions.csv
  items: {data}/items.csv
  users: {data}/users.csv
  interaction_columns: {{rating: rating, timestamp: timestamp, split: split}}
split: {{strategy: column}}
train: {{alignment: [], {train}}}
runtime: {{store: {store}, min_free_gb: 0.001}}
"""


def recipe_for(folder: Path, store: Path) -> Path:
    if not (folder / "data").is_dir():
        write_checkerboard(folder / "data")
    path = folder / f"{store.name}.yaml"
    path.write_text(RECIPE.format(data=folder / "data", store=store, train="epochs: 40, eval_every: 5"))
    return path


def contents(store: Path) -> dict[str, str]:
    """SHA-256 of every file of every artifact, by stage and file: what two equal runs must agree in."""
    return {
        f"{artifact.stage}/{artifact.key}/{name}": digest
        for artifact in Store(store).artifacts()
        for name, digest in artifact.hashes.items()
    }


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def ledger_keys(path: Path) -> list[str]:
    """The key of every row of a ledger; none while there is no ledger."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return [key for (key,) in db.execute("SELECT key FROM rows")]
