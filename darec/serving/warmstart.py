"""Warm starts: id embeddings of the release in production, matched by external id."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from darec.artifacts import files
from darec.artifacts.store import Artifact, Store
from darec.artifacts.tables import read_table
from darec.common.errors import DarecError
from darec.common.warnings import warn_once
from darec.serving.releases import Releases
from schemas import columns as c
from schemas.tables import ITEM_VOCABULARY, USER_VOCABULARY


@dataclass(frozen=True)
class Source:
    """The train and split artifacts behind a release."""

    train: Artifact
    split: Artifact

    @property
    def fingerprint(self) -> str:
        """A fingerprint that changes with the model."""
        return self.train.hashes[files.MODEL.name]

    @property
    def settings(self) -> dict[str, Any]:
        """The hashed fields of its TrainConfig."""
        return self.train.manifest.fingerprint["config"]["train"]

    @property
    def split_settings(self) -> dict[str, Any]:
        """The hashed fields of its SplitConfig."""
        return self.split.manifest.fingerprint["config"]["split"]


def current_model(store: Path) -> Source | None:
    """The train and split artifacts of the current release; None without a release, or if they were removed."""
    current = Releases(store).current()
    if current is None:
        return None

    try:
        made_from = Artifact(Releases(store).folder(current)).manifest.inputs
    except DarecError as error:
        warn_once(f"training starts from random embeddings: the current release cannot be read ({error})")
        return None

    if not {"train", "split"} <= made_from.keys():
        return None
    train, split = (Store(store).input(stage, made_from[stage]) for stage in ("train", "split"))
    return Source(train, split) if train.matches(made_from["train"]) and split.matches(made_from["split"]) else None


def carry_over(source: Source, users: Path, items: Path, dim: int) -> Tensor | None:
    """The old id embeddings in the order of new vocabularies, [N, dim]; rows of new ids are NaN.

    None if the old model has no id embeddings of that width.
    """
    embedding = load_file(files.MODEL.of(source.train)).get("embedding")
    if embedding is None or embedding.shape[1] != dim:
        return None
    user_rows, item_rows, n_users = _renumbered(source, users, items)
    return torch.cat([_rows(embedding[:n_users], user_rows), _rows(embedding[n_users:], item_rows)])


def trained_share(source: Source, users: Path, items: Path, held_out: pl.DataFrame) -> float:
    """The share of the pairs `held_out`, in the numbers of new vocabularies, that the old model was trained on."""
    user_rows, item_rows, _ = _renumbered(source, users, items)
    pairs = pl.DataFrame(
        {
            c.USER_INDEX: user_rows.numpy()[held_out[c.USER_INDEX].to_numpy()],
            c.ITEM_INDEX: item_rows.numpy()[held_out[c.ITEM_INDEX].to_numpy()],
        }
    )
    train = files.TRAIN_PART.scan(source.split.file(files.TRAIN_PART.name)).select(pl.col(pairs.columns).cast(pl.Int64))
    known = pairs.lazy().join(train, on=pairs.columns, how="semi").select(pl.len()).collect(engine="streaming").item()
    return known / len(pairs) if len(pairs) else 0.0


def _renumbered(source: Source, users: Path, items: Path) -> tuple[Tensor, Tensor, int]:
    """The old number of every user and item of new vocabularies, -1 for a new one, and the number of old users."""
    before_users = files.USER_VOCABULARY.of(source.split)
    before_items = files.ITEM_VOCABULARY.of(source.split)
    user_rows = _places(before_users, read_table(users, USER_VOCABULARY), c.USER_INDEX)
    item_rows = _places(before_items, read_table(items, ITEM_VOCABULARY), c.ITEM_INDEX)
    return user_rows, item_rows, before_users.height


def _places(before: pl.DataFrame, now: pl.DataFrame, number: str) -> Tensor:
    """For each id of the vocabulary `now`, its number in `before`, -1 for a new one: int64 [n]."""
    known = before.rename({number: "before"})
    joined = now.sort(number).join(
        known, on=[name for name in now.columns if name != number], how="left", maintain_order="left"
    )
    return torch.from_numpy(joined["before"].fill_null(-1).to_numpy().astype("int64"))


def _rows(embedding: Tensor, places: Tensor) -> Tensor:
    nothing = torch.full((1, embedding.shape[1]), torch.nan)
    return torch.cat([embedding, nothing])[places]
