"""Compares two models on the same test interactions, matched by external id.

Both models rank only the users and items that both have, without the train items of the new run, so that neither has an
advantage from ids that the other lacks. Test interactions that the other model was trained on (its run may have split
the data differently) are excluded for both.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from darec.artifacts.store import Artifact
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.registry import NAMES
from darec.evaluation.report import EvaluatedModel, evaluate_model
from darec.evaluation.rerank import Reranker
from darec.evaluation.rerankers import read
from darec.evaluation.significance import interval
from schemas import columns as c
from schemas.release import ITEMS_FILE, RERANKER_FILE, USERS_FILE, Comparison, Difference
from schemas.training import EvaluateConfig

_PAIR = (c.USER_INDEX, c.ITEM_INDEX)
_METRIC = re.compile(rf"({'|'.join(NAMES)})@[1-9]\d*")


@dataclass(frozen=True)
class Model:
    """Vectors by external id, which are read lazily. The position of a row is its number in the model."""

    name: str
    users: pl.LazyFrame
    """Columns `user_id` and `vector`."""
    items: pl.LazyFrame
    """Columns `item_id` and `vector`."""
    train: pl.LazyFrame | None = None
    """The pairs that it was trained on, in its own numbering; None if they contain no test interaction."""
    reranker: Reranker | None = None
    """The reranker of its candidates, in its own numbering."""

    @classmethod
    def of_bundle(cls, name: str, folder: Path, train: pl.LazyFrame | None = None) -> "Model":
        """The model that a bundle serves."""
        Artifact(folder).fetch([USERS_FILE, ITEMS_FILE, RERANKER_FILE])
        users, items = (pl.scan_parquet(folder / file, glob=False) for file in (USERS_FILE, ITEMS_FILE))
        path = folder / RERANKER_FILE
        reranker = read(path) if path.is_file() else None
        return cls(name, users.select(c.USER, c.VECTOR), items.select(c.ITEM, c.VECTOR), train, reranker)


@dataclass(frozen=True)
class ChallengerRun:
    """The new model, the challenger, and the interactions of its run in its numbering."""

    challenger: Model
    train: pl.DataFrame
    """Columns `user_index` and `item_index`."""
    test: pl.DataFrame

    def compare(
        self, other: Model, metrics: Iterable[str], config: EvaluateConfig, most_users: int
    ) -> Comparison | None:
        """Both models' `metrics` (such as `recall@20`), on at most `most_users` users, evenly spaced over their ids.

        Metrics that need more than interactions (categories, text vectors) are left out. None if both models know no
        test interaction, or if `metrics` names no metric.
        """
        wanted = [name for name in sorted(set(metrics)) if _METRIC.fullmatch(name)]
        users = _shared(self.challenger.users, other.users, c.USER, c.USER_INDEX)
        items = _shared(self.challenger.items, other.items, c.ITEM, c.ITEM_INDEX)
        test = self.test.select(_PAIR).join(users, on=c.USER_INDEX, how="semi").join(items, on=c.ITEM_INDEX, how="semi")
        if other.train is not None:
            test = test.join(_renumbered(other.train, users, items), on=_PAIR, how="anti")
        if test.is_empty() or not wanted:
            return None

        tested = test[c.USER_INDEX].unique().sort()
        places = np.unique(np.linspace(0, len(tested) - 1, min(len(tested), most_users)).astype(np.int64))
        chosen = tested.gather(places).to_frame()
        users = users.join(chosen, on=c.USER_INDEX, how="semi").sort(c.USER_INDEX)
        data = _interactions(users, items, self.train, test)

        cutoffs = tuple(sorted({int(name.partition("@")[2]) for name in wanted}))
        config = config.model_copy(update={"cutoffs": cutoffs})
        first, second = (
            evaluate_model(
                _representations(model, users, items, whose),
                data,
                data.test,
                config,
                reranker=_reranker(model, items[whose]),
            )
            for model, whose in ((self.challenger, "mine"), (other, "theirs"))
        )
        return Comparison(
            against=other.name,
            users=users.height,
            pairs=len(data.test),
            test_users=self.test[c.USER_INDEX].n_unique(),
            test_pairs=self.test.height,
            metrics={name: _difference(first, second, name) for name in wanted if name in first.summary},
        )


def _shared(mine: pl.LazyFrame, theirs: pl.LazyFrame, name: str, number: str) -> pl.DataFrame:
    """The ids that both models have, ordered by the number in this one: columns `number` (a copy for joins), `mine`,
    `theirs`."""
    both = mine.select(name).with_row_index("mine").join(theirs.select(name).with_row_index("theirs"), on=name)
    numbered = both.select(pl.col("mine").cast(pl.Int32).alias(number), "mine", "theirs")
    return numbered.collect().unique(number).unique("theirs").sort(number)


def _renumbered(pairs: pl.LazyFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Pairs of the other model in the numbering of this one. Pairs with unknown ids are dropped."""
    theirs = [
        side.select(pl.col("theirs").cast(pl.Int32).alias(f"their_{number}"), number)
        for side, number in zip((users, items), _PAIR, strict=True)
    ]
    known = pairs.select(pl.col(number).alias(f"their_{number}") for number in _PAIR)
    for side, number in zip(theirs, _PAIR, strict=True):
        known = known.join(side.lazy(), on=f"their_{number}")
    return known.select(_PAIR).collect()


def _interactions(users: pl.DataFrame, items: pl.DataFrame, train: pl.DataFrame, test: pl.DataFrame) -> Interactions:
    """The pairs of `users` and `items`, numbered by position in these tables."""

    def pairs(table: pl.DataFrame) -> Pairs:
        placed = table.select(_PAIR)
        for side, number in zip((users, items), _PAIR, strict=True):
            placed = placed.join(side.select(number).with_row_index(f"{number}_place"), on=number)
        return Pairs.of(*(placed[f"{number}_place"].to_numpy() for number in _PAIR))

    nothing = Pairs.of(np.empty(0), np.empty(0))
    return Interactions(users.height, items.height, pairs(train), nothing, pairs(test))


def _representations(model: Model, users: pl.DataFrame, items: pl.DataFrame, whose: str) -> Representations:
    sides = (_vectors(model.users, users[whose]), _vectors(model.items, items[whose]))
    return Representations.join(*(torch.from_numpy(side) for side in sides))


def _reranker(model: Model, rows: pl.Series) -> Reranker | None:
    """The reranker of the model, restricted to these items."""
    return model.reranker.of(torch.from_numpy(rows.to_numpy().astype(np.int64))) if model.reranker else None


def _vectors(frame: pl.LazyFrame, rows: pl.Series) -> Any:
    """The vectors of these rows, in this order, float32 [rows, width]."""
    wanted = pl.LazyFrame({"row": rows}).with_row_index("place")
    found = frame.select(c.VECTOR).with_row_index("row").join(wanted, on="row").sort("place").collect()
    return np.array(found[c.VECTOR].to_numpy(), np.float32)


def _difference(first: EvaluatedModel, second: EvaluatedModel, name: str) -> Difference:
    value, other = (_number(model.summary[name]) for model in (first, second))
    if name not in first.scores.values:  # coverage, novelty: not a mean over users
        return Difference(challenger=value, other=other)
    low, high = (_number(end) for end in interval(first.scores, second.scores, name))
    return Difference(challenger=value, other=other, low=low, high=high)


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
