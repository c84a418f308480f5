"""Benchmark data: interactions with a given split, and text vectors if there are any."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from darec.artifacts.keys import digest, file_sha256
from darec.artifacts.tables import read_table
from darec.common.errors import UserError
from darec.model.interactions import Interactions, Pairs, Representations
from darec.model.propagation import Adjacency
from schemas import columns as c
from schemas.tables import EDGES, ITEM_VOCABULARY, PARTS, SPLIT_PART, USER_VOCABULARY

_TEXT_FILES = ("user_text.npy", "item_text.npy")


@dataclass(frozen=True)
class BenchData:
    """What every method of a benchmark sees."""

    name: str
    interactions: Interactions
    text: Representations | None
    content: str
    """Hash of the interactions."""
    text_content: str | None
    """Hash of the text vectors."""
    adjacency: Adjacency | None = None
    """The train graph, where it is not the normalised one of the train pairs."""


def from_folder(name: str, folder: Path) -> BenchData:
    """Reads `interactions.parquet` (user_id and item_id from 0, split), `user_text.npy` and `item_text.npy` [n, d].

    Raises:
        UserError: a file is missing or not of this layout.
    """
    path = folder / "interactions.parquet"
    if not path.is_file():
        hint = f"give the data set's folder: --data {name}=FOLDER"
        raise UserError(f"data set {name!r} is not there", where=str(path), hint=hint)
    table = pl.read_parquet(path)
    missing = {c.USER, c.ITEM, c.SPLIT} - set(table.columns)
    if missing:
        raise UserError(f"columns missing: {', '.join(sorted(missing))}", where=str(path), hint="see docs/results.md")
    text_paths = [folder / file for file in _TEXT_FILES]
    has_text = all(file.is_file() for file in text_paths)
    text = Representations.join(*map(_vectors, text_paths)) if has_text else None
    n_users, n_items = (int(table[column].max()) + 1 for column in (c.USER, c.ITEM))  # type: ignore[arg-type]
    if text is not None:
        n_users, n_items = text.n_users, len(text.item)
    table = table.rename({c.USER: c.USER_INDEX, c.ITEM: c.ITEM_INDEX})
    parts = (Pairs.of_table(table.filter(pl.col(c.SPLIT) == part)) for part in PARTS)
    text_content = digest([file_sha256(file) for file in text_paths]) if has_text else None
    return BenchData(name, Interactions(n_users, n_items, *parts), text, file_sha256(path), text_content)


def from_artifacts(name: str, split: Path, embed: Path | None, graph: Path | None = None) -> BenchData:
    """Reads what the stages wrote; without `embed` there is no text, without `graph` its edges have default weights."""
    parts = (Pairs.of_table(read_table(split / f"{part}.parquet", SPLIT_PART)) for part in PARTS)
    n_users = read_table(split / "users.parquet", USER_VOCABULARY).height
    n_items = read_table(split / "items.parquet", ITEM_VOCABULARY).height
    interactions = Interactions(n_users, n_items, *parts)
    content = digest([file_sha256(split / f"{part}.parquet") for part in PARTS])
    edges = read_table(graph / "edges.parquet", EDGES) if graph else None
    adjacency = None if edges is None else Adjacency.of_table(edges, n_users, n_items)
    if embed is None:
        return BenchData(name, interactions, None, content, None, adjacency)
    vectors = load_file(embed / "vectors.safetensors")
    text = Representations.join(vectors["user"], vectors["item"])
    return BenchData(name, interactions, text, content, file_sha256(embed / "vectors.safetensors"), adjacency)


def _vectors(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))


def train_counts(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Train interactions of each user and of each item, int64."""
    train = interactions.train
    return (
        torch.bincount(train.users, minlength=interactions.n_users),
        torch.bincount(train.items, minlength=interactions.n_items),
    )
