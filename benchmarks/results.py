"""The finished runs of a grid as two tables: `results.parquet` and `per_user.parquet`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from benchmarks.grid import Entry
from benchmarks.runs import METRICS, PER_USER, BenchReport, Run, find
from darec.artifacts.store import Artifact, Store
from darec.common.errors import UserError
from darec.evaluation.protocol import Scores
from schemas import columns as c

METHOD = ("data", "backbone", "alignment")


@dataclass(frozen=True)
class Results:
    """The data for tables and plots.

    runs: one row per run, part and metric: data, backbone, alignment, seed, part, metric, value, key, epochs,
    best_epoch, train_seconds.
    users: one row per run and test user: the same names, seed, user_index, train_count, the metrics.
    """

    runs: pl.DataFrame
    users: pl.DataFrame

    def methods(self, data: str) -> list[tuple[str, str]]:
        """(backbone, alignment) of each method with a finished run, in the order of the grid."""
        rows = self.runs.filter(data=data).select("backbone", "alignment").unique(maintain_order=True)
        return [(str(backbone), str(alignment)) for backbone, alignment in rows.iter_rows()]

    def values(self, data: str, backbone: str, alignment: str, metric: str, part: str = "test") -> list[float]:
        """The metric of each seed."""
        chosen = self.runs.filter(data=data, backbone=backbone, alignment=alignment, metric=metric, part=part)
        return chosen.sort("seed")["value"].to_list()

    def per_user(self, data: str, backbone: str, alignment: str, metrics: Iterable[str]) -> Scores:
        """Test metrics of each user, means over seeds, for paired tests."""
        chosen = self.users.filter(data=data, backbone=backbone, alignment=alignment)
        means = chosen.group_by(c.USER_INDEX).agg(pl.col(name).cast(pl.Float64).mean() for name in metrics)
        means = means.sort(c.USER_INDEX)
        users = torch.tensor(means[c.USER_INDEX].to_numpy(), dtype=torch.int64)
        return Scores(users, {name: torch.tensor(means[name].to_numpy()) for name in metrics})


def collect(runs: Iterable[Run], store: Store) -> Results:
    """The results of the finished `runs`. Raises UserError if there are none."""
    found = [(run.entry, artifact) for run in runs if (artifact := find(run, store)) is not None]
    if not found:
        raise UserError("no run of this benchmark is finished", where=str(store.root), hint="`darec bench run` first")
    return Results(
        pl.concat([_metrics(entry, artifact) for entry, artifact in found]),
        pl.concat([_users(entry, artifact) for entry, artifact in found]),
    )


def write(results: Results, folder: Path) -> None:
    """`results.parquet` and `per_user.parquet` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    results.runs.write_parquet(folder / "results.parquet")
    results.users.write_parquet(folder / PER_USER)


def _names(entry: Entry) -> list[pl.Expr]:
    names = {"data": entry.data, "backbone": entry.backbone, "alignment": entry.alignment}
    return [*(pl.lit(value).alias(name) for name, value in names.items()), pl.lit(entry.seed).alias("seed")]


def _metrics(entry: Entry, artifact: Artifact) -> pl.DataFrame:
    report = BenchReport.model_validate(artifact.manifest.report)
    costs = [pl.lit(getattr(report, name)).alias(name) for name in ("epochs", "best_epoch", "train_seconds")]
    table = pl.read_parquet(artifact.path / METRICS)
    return table.select(*_names(entry), pl.all(), pl.lit(artifact.key).alias("key"), *costs)


def _users(entry: Entry, artifact: Artifact) -> pl.DataFrame:
    return pl.read_parquet(artifact.path / PER_USER).select(*_names(entry), pl.all())
