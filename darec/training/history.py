"""The history of a training run: one row per logged value."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch

from schemas.tables import HISTORY

_TYPES = {"epoch": "i", "step": "q", "name": "i", "value": "d"}
"""Columns and their type codes for `array`: 24 bytes per row, because a long run may have millions of rows."""


class History:
    """Loss terms and learning rates of epochs (or steps), and validation metrics."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._columns = {column: array(kind) for column, kind in _TYPES.items()}

    def __len__(self) -> int:
        return len(self._columns["value"])

    def add(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """`epoch` counts from 1; `step` is the number of steps taken so far."""
        self.extend(epoch, ((step, name, value) for name, value in values.items()))

    def extend(self, epoch: int, rows: Iterable[tuple[int, str, float]]) -> None:
        """Adds (step, name, value) rows of one epoch."""
        for step, name, value in rows:
            row = (epoch, step, self._names.setdefault(name, len(self._names)), value)
            for column, cell in zip(self._columns.values(), row, strict=True):
                column.append(cell)

    def table(self) -> pl.DataFrame:
        """Rows of `loss/...`, `step/...` (if steps are logged), `val/...` and `learning_rate`.

        A value that is not finite is null.
        """
        columns = {column: np.array(values) for column, values in self._columns.items()}
        names, value = pl.Series(list(self._names), dtype=pl.String), pl.col("value")
        return pl.DataFrame(columns | {"name": names.gather(columns["name"])}, schema=HISTORY).with_columns(
            pl.when(value.is_finite()).then(value)
        )

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: the columns as tensors, and the names for the numbers in the column `name`."""
        columns = {column: torch.from_numpy(np.array(values)) for column, values in self._columns.items()}
        return columns | {"names": list(self._names)}

    @classmethod
    def of_state(cls, state: Any) -> "History":
        """The reverse of `state`; checkpoints of version 0.1 have a list of rows instead."""
        history = cls()
        if isinstance(state, list):
            for epoch, step, name, value in state:
                history.add(epoch, step, {name: float("nan") if value is None else value})
            return history

        history._names = {name: number for number, name in enumerate(state["names"])}
        for column, values in history._columns.items():
            values.frombytes(state[column].numpy().tobytes())
        return history


def best_epoch(history: pl.DataFrame) -> int:
    """The epoch that training kept, from the `table` of its history: the first with the best validation Recall@20.

    Without validation it is the last epoch.
    """
    judged = history.filter(pl.col("name") == "val/recall@20").drop_nulls("value")
    if judged.is_empty():
        return int(history["epoch"].max() or 1)  # type: ignore[arg-type]
    return int(judged.sort("value", "epoch", descending=[True, False])["epoch"][0])
