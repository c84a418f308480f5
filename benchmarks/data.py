"""Benchmark data: interactions with a given split, and text vectors, if any."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from benchmarks.folders import INTERACTIONS, OTHERS, TEXT_FILES, read_interactions, read_text
from darec.artifacts import files
from darec.artifacts.store import Artifact, Store
from darec.common.errors import UserError
from darec.common.hashing import digest, file_sha256
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.recipes import load_recipe
from darec.model.propagation import Adjacency
from schemas import columns as c
from schemas.bench import DataSources, Name
from schemas.tables import PARTS
from stages.evaluate import item_ages
from stages.plan import finished
from stages.registry import needed
from stages.walk import run


@dataclass(frozen=True)
class BenchData:
    """The data of a benchmark, which is the same for every method."""

    name: str
    interactions: Interactions
    text: Representations | None
    content: str
    """Hash of the interactions."""
    text_content: str | None
    """Hash of the text vectors."""
    adjacency: Adjacency | None = None
    """The train graph, if it is not the normalised graph of the train pairs."""
    ages: Tensor | None = None
    """Days since each item's first train interaction, -1 without one, int64 [n_items]; None without timestamps."""


def from_folder(name: str, folder: Path) -> BenchData:
    """Reads `interactions.parquet` (user_id and item_id from 0, split, and optionally timestamp in seconds),
    and `user_text.npy` and `item_text.npy` [n, d] if they exist.

    Raises:
        UserError: a file is missing or has another layout.
    """
    table = read_interactions(name, folder)
    n_users, n_items = (int(table[column].max()) + 1 for column in (c.USER, c.ITEM))  # type: ignore[arg-type]
    text = read_text(folder, n_users, n_items)
    if text is not None:
        n_users, n_items = text.n_users, len(text.item)

    table = table.rename({c.USER: c.USER_INDEX, c.ITEM: c.ITEM_INDEX})
    parts = (Pairs.of_table(table.filter(pl.col(c.SPLIT) == part)) for part in PARTS)
    text_content = digest([file_sha256(folder / file) for file in TEXT_FILES]) if text else None
    timed = c.TIMESTAMP in table.columns
    ages = item_ages(table.filter(pl.col(c.SPLIT) == "train"), n_items) if timed else None
    interactions = Interactions(n_users, n_items, *parts)
    content = file_sha256(folder / INTERACTIONS)
    return BenchData(name, interactions, text, content, text_content, ages=ages)


def from_artifacts(name: str, split: Artifact, embed: Artifact | None, graph: Artifact | None = None) -> BenchData:
    """Reads the artifacts of the stages; without `embed` there is no text, and without `graph` the edges have default
    weights.
    """
    parts = (files.TRAIN_PART, files.VAL_PART, files.TEST_PART)
    n_users, n_items = files.USER_VOCABULARY.of(split).height, files.ITEM_VOCABULARY.of(split).height
    interactions = Interactions(n_users, n_items, *(Pairs.of_table(part.of(split)) for part in parts))
    content = digest([split.hashes[part.name] for part in parts])
    adjacency = Adjacency.of_table(files.EDGES.of(graph), n_users, n_items) if graph else None
    ages = item_ages(files.TRAIN_PART.of(split), n_items)
    if embed is None:
        return BenchData(name, interactions, None, content, None, adjacency, ages)

    vectors = files.TEXT_VECTORS.of(embed)
    text = Representations.join(torch.from_numpy(vectors.user), torch.from_numpy(vectors.item))
    return BenchData(name, interactions, text, content, embed.hashes[files.TEXT_VECTORS.name], adjacency, ages)


def train_counts(interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Train interactions of each user and of each item, int64."""
    train = interactions.train
    return (
        torch.bincount(train.users, minlength=interactions.n_users),
        torch.bincount(train.items, minlength=interactions.n_items),
    )


def sources(known: DataSources, given: list[str]) -> DataSources:
    """The recipe's data sets, with those of the command line (`NAME=PATH`) added or in place of them."""
    found = dict(known)
    for option in given:
        name, equals, path = option.partition("=")
        if not equals or not path:
            raise UserError(f"{option!r} names no data set", where="--data", hint="write --data NAME=PATH")
        if not _is_name(name):
            hint = "use letters, digits, spaces, '.', '+', '-' and '_': it becomes part of file names"
            raise UserError(f"{name!r} cannot be the name of a data set", where="--data", hint=hint)
        found[name] = Path(path)
    return found


def _is_name(text: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


def is_recipe(path: Path) -> bool:
    """Whether a data set is given by the recipe of a run, and not by a folder."""
    return path.suffix in (".yaml", ".yml", ".toml")


def load_data(name: str, path: Path, text: bool = True) -> BenchData:
    """A folder in the benchmark layout, or the split and vectors of the recipe of a run.

    A missing split is computed; missing text vectors raise an error, because they need an LLM.
    """
    if not is_recipe(path):
        return from_folder(name, path)

    recipe = load_recipe(path)
    split = run(recipe, "split")[-1].artifact
    assert split is not None
    try:
        embed = finished(recipe, Store(recipe.runtime.store), needed(recipe, "embed"))["embed"]
    except UserError as error:
        if text:
            hint = f"run `darec run --recipe {path} --until embed` first; or {OTHERS}"
            raise UserError(f"the text vectors of {name!r} do not exist yet", where=str(path), hint=hint) from error
        embed = None

    return from_artifacts(name, split, embed)
