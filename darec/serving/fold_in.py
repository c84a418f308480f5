"""Vectors for histories of users that a release does not know, in the terms of its own users."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from darec.serving.index import Floats, Ints
from schemas import columns as c

if TYPE_CHECKING:
    from darec.model.fold_in import HistoryMap
    from darec.serving.bundle import Bundle

_MOST_USERS = 100_000  # evenly chosen ones are enough for a map of some dozens of dimensions


def fold_in(bundle: "Bundle", rows: Ints, items: Ints, histories: int) -> Floats:
    """User vectors from histories alone, [histories, width].

    Args:
        bundle: A release.
        rows: int64 [m], the history that each item belongs to.
        items: int64 [m], item indices.
        histories: How many there are. One without an item gets what the map gives for no item at all.
    """
    import torch

    item = torch.tensor(bundle.all_item_vectors())
    folded = bundle.fold_in.vectors(torch.from_numpy(rows), torch.from_numpy(items), item, histories)
    return np.ascontiguousarray(folded.numpy())


def learn(bundle: "Bundle") -> "HistoryMap":
    """The map from histories to vectors that suits the release's own users. A bundle keeps it as `fold_in`."""
    import torch

    from darec.model.fold_in import HistoryMap
    from darec.serving.bundle import vectors_of

    users = bundle.trained_users(_MOST_USERS)
    numbers = pl.DataFrame({c.USER_INDEX: users[c.USER_INDEX].cast(pl.Int32)}).with_row_index("row")
    known = bundle.liked(users[c.USER_INDEX].to_list()).join(numbers, on=c.USER_INDEX)
    rows, items = (known[name].cast(pl.Int64).to_torch() for name in ("row", c.ITEM_INDEX))
    return HistoryMap.learn(rows, items, torch.tensor(vectors_of(users)), torch.tensor(bundle.all_item_vectors()))
