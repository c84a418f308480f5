"""The trace of a training run: one row a number that was observed."""

import math

import polars as pl

from schemas.tables import HISTORY


class History:
    """Loss terms and learning rates of epochs (or steps), and validation metrics."""

    def __init__(self, rows: list[list[float | int | str | None]] | None = None) -> None:
        self.rows = rows or []

    def add(self, epoch: int, step: int, values: dict[str, float]) -> None:
        """`epoch` counts from 1; `step` is the number of steps taken so far."""
        self.rows += [[epoch, step, name, value if math.isfinite(value) else None] for name, value in values.items()]

    def table(self) -> pl.DataFrame:
        """Rows of `loss/...`, `step/...` (if steps are logged), `val/...` and `learning_rate`."""
        return pl.DataFrame(self.rows, schema=HISTORY, orient="row")
