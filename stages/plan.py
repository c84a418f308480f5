"""What a run would do, without doing it: every stage a hit or stale, why, how many rows, how long it took last time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from darec.artifacts.store import Artifact, Store
from darec.common.errors import UserError
from darec.common.progress import Silent
from schemas.recipe import Recipe
from stages.contract import Stage
from stages.execute import UNCHANGED, Job, reasons
from stages.registry import needed

State = Literal["hit", "stale", "follows", "blocked"]


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    `follows`: an input is stale, so the key is not known yet (the stage may still turn out a hit).
    `blocked`: something the user must fix first; `why` says what.
    """

    stage: Stage
    state: State
    why: tuple[str, ...]
    key: str | None = None
    artifact: Artifact | None = None
    rows: int | None = None
    seconds_last_time: float | None = None


def plan(recipe: Recipe, store: Store, target: str = "publish", *, checksums: bool = False) -> list[Step]:
    """The steps to `target`, in order. Reads manifests and the ledger; computes nothing."""
    done: dict[str, Artifact] = {}
    steps = []
    for stage in needed(recipe, target):
        step = _step(stage, recipe, store, done, checksums)
        if step.artifact is not None:
            done[stage.name] = step.artifact
        steps.append(step)
    return steps


def _step(stage: Stage, recipe: Recipe, store: Store, done: dict[str, Artifact], checksums: bool) -> Step:
    latest = store.latest(stage.name)
    seconds = latest.manifest.seconds if latest else None
    waiting = [source.stage for source in stage.inputs(recipe) if source.stage not in done]
    if waiting:
        return Step(stage, "follows", (f"follows {', '.join(waiting)}",), seconds_last_time=seconds)
    job = Job(stage, recipe, done)
    try:
        key = job.key
    except UserError as error:
        return Step(stage, "blocked", (str(error),), seconds_last_time=seconds)
    if stage.settled is not None:
        return _effect(job, store, key)
    artifact = store.artifact(stage.name, key)
    if artifact.path.is_dir():
        damage = artifact.damage(checksums)
        if damage is None:
            return Step(stage, "hit", (UNCHANGED,), key, artifact, 0, artifact.manifest.seconds)
        return Step(stage, "stale", (f"damaged: {damage}",), key, rows=_pending(job, store), seconds_last_time=seconds)
    return Step(stage, "stale", reasons(job, store), key, rows=_pending(job, store), seconds_last_time=seconds)


def _effect(job: Job, store: Store, key: str) -> Step:
    settled = job.stage.settled and job.stage.settled(job.context(store, Path("/nonexistent"), Silent()))
    if settled:
        return Step(job.stage, "hit", (settled,), key, rows=0)
    return Step(job.stage, "stale", ("the bundle is not yet decided upon",), key)


def _pending(job: Job, store: Store) -> int | None:
    if job.stage.pending is None:
        return None
    return job.stage.pending(job.context(store, Path("/nonexistent"), Silent()))
