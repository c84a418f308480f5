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
from safetensors.torch import save_file

from darec.bench.data import BenchData, train_counts
from darec.bench.grid import Entry
from darec.evaluation.protocol import Scores, rank, score
from darec.interactions import Representations
from darec.keys import artifact_key
from darec.measure import Measure
from darec.progress import Progress
from darec.store import Artifact, Store, code_revision, file_records
from darec.training import Trained, train
from schemas import columns as c
from schemas.manifest import Manifest
from schemas.section import hashed
from schemas.training import EvaluateConfig

STAGE = "bench_run"
VERSION = 1  # raised when the same configuration gives other numbers than before


@dataclass(frozen=True)
class Run:
    """An entry of the grid with its data."""

    entry: Entry
    data: BenchData
    evaluate: EvaluateConfig

    @cached_property
    def material(self) -> dict[str, Any]:
        """All that is hashed into the key; text vectors only where the model sees them."""
        config = self.entry.config
        sees_text = bool(config.alignment) or config.text.use != "none"
        return {
            "stage": STAGE,
            "version": VERSION,
            "data": self.data.content,
            "text": self.data.text_content if sees_text else None,
            "train": hashed(config),
            "evaluate": hashed(self.evaluate),
        }

    @cached_property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key(self.material)


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
        found = store.find(STAGE, run.key)
        if found is not None:
            return found, True
        return _perform(run, store, progress), False


def _perform(run: Run, store: Store, progress: Progress) -> Artifact:
    with store.draft(STAGE, run.key) as draft, Measure() as cost:
        checkpoint = store.work(STAGE, run.key) / "checkpoint.safetensors"
        data = run.data
        trained = train(run.entry.config, data.interactions, data.text, resume=checkpoint, progress=progress)
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
    scores = {part: judge(trained.final, data, part, evaluate) for part in ("val", "test")}
    rows = [(part, name, value) for part, each in scores.items() for name, value in each.means().items()]
    pl.DataFrame(rows, schema=["part", "metric", "value"], orient="row").write_parquet(folder / "metrics.parquet")
    per_user(scores["test"], data).write_parquet(folder / "per_user.parquet")
    trained.history.write_parquet(folder / "history.parquet")
    final = {"final.user": trained.final.user.contiguous(), "final.item": trained.final.item.contiguous()}
    save_file(trained.state | final, folder / "model.safetensors")


def judge(final: Representations, data: BenchData, part: str, evaluate: EvaluateConfig) -> Scores:
    """Metrics of each user on a part of the split."""
    held_out = getattr(data.interactions, part)
    ranking = rank(final, data.interactions.train, held_out, max(evaluate.cutoffs), evaluate.batch_users)
    return score(ranking, held_out, data.interactions.n_items, evaluate.cutoffs)


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
        settings=run.entry.config.model_dump(mode="json"),
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
