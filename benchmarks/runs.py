"""Running the grid: each entry is an artifact in a store, found by the key of its data and configuration.

Several processes may run one grid at once: each takes what no other is at work on.
"""

import fcntl
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from benchmarks.data import BenchData, train_counts
from benchmarks.grid import Entry
from darec.artifacts.keys import artifact_key
from darec.artifacts.store import Artifact, Store, code_revision, file_records
from darec.common.measure import Measure
from darec.common.progress import Progress
from darec.evaluation.protocol import Scores
from darec.evaluation.report import judge
from darec.training import Trained, train
from schemas import columns as c
from schemas.manifest import Manifest
from schemas.section import Section, hashed, is_not_hashed
from schemas.training import EvaluateConfig

STAGE = "bench_run"
VERSION = 2  # raised when the same configuration gives other numbers than before


@dataclass(frozen=True)
class Run:
    """An entry of the grid with its data."""

    entry: Entry
    data: BenchData
    evaluate: EvaluateConfig

    @cached_property
    def material(self) -> dict[str, Any]:
        """All that is hashed into the key; text vectors only where the model sees them.

        Of the configuration only what is not a default: a new option whose default changes nothing keeps old runs.
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
        return artifact_key(self.material)


def chosen(value: Any) -> Any:
    """A configuration's values that are not defaults, and every `name`; runtime fields left out."""
    if isinstance(value, BaseModel):
        kind = type(value)
        kept = {name: getattr(value, name) for name in kind.model_fields if not is_not_hashed(kind, name)}
        defaults = {name: kind.model_fields[name].get_default(call_default_factory=True) for name in kept}
        return {name: chosen(each) for name, each in kept.items() if name == "name" or each != defaults[name]}
    return [chosen(each) for each in value] if isinstance(value, tuple) else value


def find(run: Run, store: Store) -> Artifact | None:
    """The run's artifact; one made while a default had another value does not count."""
    artifact = store.find(STAGE, run.key)
    if artifact is None or not agrees(artifact.manifest.settings, hashed(run.settings)):
        return None
    return artifact


def agrees(before: Any, now: Any) -> bool:
    """Whether two configurations have the same value wherever both have one."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(agrees(before[name], now[name]) for name in before.keys() & now.keys())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(agrees(*pair) for pair in zip(before, now, strict=True))
    return before == now


def run_grid(runs: list[Run], store: Store, progress: Progress) -> Iterator[tuple[Run, Artifact, bool]]:
    """Gives every run with its artifact and whether it was there already, as they come."""
    waiting = False
    while runs:
        busy = []
        for run in runs:
            try:
                yield (run, *_take(run, store, progress, waiting))
                waiting = False
            except BlockingIOError:
                busy.append(run)
        waiting = len(busy) == len(runs)  # others have all that is left: wait for the first of theirs
        runs = busy


def _take(run: Run, store: Store, progress: Progress, waiting: bool) -> tuple[Artifact, bool]:
    mode = fcntl.LOCK_EX if waiting else fcntl.LOCK_EX | fcntl.LOCK_NB
    with store.in_use(), store.lease(f"{STAGE}-{run.key}", mode):
        found = find(run, store)
        if found is not None:
            return found, True
        return _perform(run, store, progress), False


def _perform(run: Run, store: Store, progress: Progress) -> Artifact:
    with store.draft(STAGE, run.key) as draft, Measure() as cost:
        checkpoint = store.work(STAGE, run.key) / "checkpoint.safetensors"
        data, text = run.data, run.data.text if run.entry.config.needs_text else None
        trained = train(run.entry.config, data.interactions, text, resume=checkpoint, progress=progress)
        seconds = cost.seconds
        write_result(draft, trained, data, run.evaluate)
        report = {
            "train_seconds": round(seconds, 2),
            "epochs": trained.epochs,
            "best_epoch": trained.best_epoch,
            "threads": torch.get_num_threads(),
        }
        return store.commit(draft, _manifest(run, draft, report, cost))


def write_result(folder: Path, trained: Trained, data: BenchData, evaluate: EvaluateConfig) -> None:
    """metrics.parquet (part, metric, value), per_user.parquet (test), history.parquet, model.safetensors."""
    parts = {"val": data.interactions.val, "test": data.interactions.test}
    judged = {part: judge(trained.final, data.interactions, pairs, evaluate) for part, pairs in parts.items()}
    rows = [(part, name, value) for part, each in judged.items() for name, value in each.summary.items()]
    pl.DataFrame(rows, schema=["part", "metric", "value"], orient="row").write_parquet(folder / "metrics.parquet")
    per_user(judged["test"].scores, data).write_parquet(folder / "per_user.parquet")
    trained.history.write_parquet(folder / "history.parquet")
    final = {"final.user": trained.final.user.contiguous(), "final.item": trained.final.item.contiguous()}
    save_file(trained.state | final, folder / "model.safetensors")


def per_user(scores: Scores, data: BenchData) -> pl.DataFrame:
    """One row a user: its number, its train interactions, and every metric."""
    counts = train_counts(data.interactions)[0][scores.users]
    columns: Mapping[str, Any] = {
        c.USER_INDEX: scores.users.int().numpy(),
        c.TRAIN_COUNT: counts.int().numpy(),
        **{name: value.float().numpy() for name, value in scores.values.items()},
    }
    return pl.DataFrame(columns)


def _manifest(run: Run, draft: Path, report: dict[str, Any], cost: Measure) -> Manifest:
    return Manifest(
        stage=STAGE,
        key=run.key,
        why=(run.entry.label,),
        material=run.material,
        settings=hashed(run.settings),
        inputs={},
        files=file_records(draft),
        rows=1,
        report=report,
        created=datetime.now(UTC),
        seconds=round(cost.seconds, 3),
        peak_memory_mb=round(cost.peak_memory_mb, 1),
        code=code_revision(),
        versions={"python": platform.python_version(), "torch": version("torch")},
    )
