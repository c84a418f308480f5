"""Running the grid: each entry is an artifact in a store, found by the key of its data and configuration.

Several processes may run one grid at the same time: each takes entries that no other is running.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from benchmarks.data import BenchData, train_counts
from benchmarks.grid import Entry
from darec.artifacts.keys import artifact_key
from darec.artifacts.store import Artifact, Store
from darec.common.progress import Progress
from darec.evaluation.protocol import Scores
from darec.evaluation.report import evaluate_model
from darec.training import Trained, train
from schemas import columns as c
from schemas.reports import StageReport
from schemas.section import Section, hashed, is_not_hashed
from schemas.training import EvaluateConfig
from stages.contract import Outcome
from stages.execute import Job, Result, execute

STAGE = "bench_run"
METRICS, PER_USER, HISTORY, MODEL = "metrics.parquet", "per_user.parquet", "history.parquet", "model.safetensors"
VERSION = 3  # increased when the same configuration gives other results than before


class BenchReport(StageReport):
    """The result of one run of a grid."""

    train_seconds: float = 0.0
    epochs: int = 0
    best_epoch: int = 0
    threads: int = 0
    """CPU threads of torch."""


@dataclass(frozen=True)
class Run:
    """An entry of the grid with its data."""

    entry: Entry
    data: BenchData
    evaluate: EvaluateConfig

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The material of the key; it contains text vectors only if the model uses them.

        Of the configuration it contains only values that differ from the defaults, so that runs stay valid when a new
        option is added.
        """
        config = self.entry.config
        return {
            "stage": STAGE,
            "version": VERSION,
            "data": self.data.content,
            "text": self.data.text_content if config.needs_text else None,
            **{name: chosen(section) for name, section in self.settings.items()},
        }

    @property
    def settings(self) -> dict[str, Section]:
        """The whole configuration."""
        return {"train": self.entry.config, "evaluate": self.evaluate}

    @cached_property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key(self.fingerprint)


def chosen(value: Any) -> Any:
    """The values of a configuration that differ from the defaults, and every `name`, without fields that are not
    hashed.
    """
    if isinstance(value, BaseModel):
        kind = type(value)
        kept = {name: getattr(value, name) for name in kind.model_fields if not is_not_hashed(kind, name)}
        defaults = {name: kind.model_fields[name].get_default(call_default_factory=True) for name in kept}
        return {name: chosen(each) for name, each in kept.items() if name == "name" or each != defaults[name]}
    return [chosen(each) for each in value] if isinstance(value, tuple) else value


def run_job(run: Run) -> Job:
    """The run as a job of the pipeline's own executor."""

    def work(out: Path, scratch: Path, progress: Progress) -> Outcome[BenchReport]:
        started = time.perf_counter()
        text = run.data.text if run.entry.config.needs_text else None
        checkpoint = scratch / "checkpoint.safetensors"
        trained = train(run.entry.config, run.data.interactions, text, resume=checkpoint, progress=progress)
        seconds = time.perf_counter() - started

        write_result(out, trained, run.data, run.evaluate)
        report = BenchReport(
            train_seconds=round(seconds, 2),
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            threads=torch.get_num_threads(),
        )
        return Outcome(1, report)

    return Job(
        stage=STAGE,
        fingerprint=run.fingerprint,
        writes=(METRICS, PER_USER, HISTORY, MODEL),
        work=work,
        report=BenchReport,
        settings=hashed(run.settings),
        checksums=False,
        # A run that was made with a different default does not count.
        outdated=lambda artifact: (
            None if agrees(artifact.manifest.settings, hashed(run.settings)) else "other defaults"
        ),
        why=run.entry.label,
    )


def find(run: Run, store: Store) -> Artifact | None:
    """The run's artifact, if it is finished."""
    return run_job(run).find(store)


def agrees(before: Any, now: Any) -> bool:
    """Whether two configurations have equal values in all common fields."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(agrees(before[name], now[name]) for name in before.keys() & now.keys())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(agrees(*pair) for pair in zip(before, now, strict=True))
    return before == now


def run_grid(runs: list[Run], store: Store, progress: Progress) -> Iterator[tuple[Run, Result]]:
    """Yields every run with its result, as runs finish."""
    waiting = False
    while runs:
        busy = []
        for run in runs:
            try:
                yield run, execute(run_job(run), store, progress, wait=waiting)
                waiting = False
            except BlockingIOError:
                busy.append(run)
        waiting = len(busy) == len(runs)  # other processes run all remaining entries: wait for the first of them
        runs = busy


def write_result(folder: Path, trained: Trained, data: BenchData, evaluate: EvaluateConfig) -> None:
    """metrics.parquet (part, metric, value), per_user.parquet (test), history.parquet, model.safetensors."""
    parts = {"val": data.interactions.val, "test": data.interactions.test}
    judged = {part: evaluate_model(trained.final, data.interactions, pairs, evaluate) for part, pairs in parts.items()}
    rows = [(part, name, value) for part, each in judged.items() for name, value in each.summary.items()]
    pl.DataFrame(rows, schema=["part", "metric", "value"], orient="row").write_parquet(folder / METRICS)
    per_user(judged["test"].scores, data).write_parquet(folder / PER_USER)
    trained.history.write_parquet(folder / HISTORY)
    final = {"final.user": trained.final.user.contiguous(), "final.item": trained.final.item.contiguous()}
    save_file(trained.state | final, folder / MODEL)


def per_user(scores: Scores, data: BenchData) -> pl.DataFrame:
    """One row per user: its number, its train interactions, and every metric."""
    counts = train_counts(data.interactions)[0][scores.users]
    columns: Mapping[str, Any] = {
        c.USER_INDEX: scores.users.int().numpy(),
        c.TRAIN_COUNT: counts.int().numpy(),
        **{name: value.float().numpy() for name, value in scores.values.items()},
    }
    return pl.DataFrame(columns)
