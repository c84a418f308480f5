"""Plans a run without running it: for each task whether it is a hit or stale, why, the number of rows, and its last
duration."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from darec.artifacts.store import Artifact, Store
from darec.common.errors import TransientError, UserError
from darec.common.warnings import collected
from schemas.recipe import Recipe
from stages.contract import Effect, Stage, Task
from stages.costs import NOTHING, UNKNOWN, Cost, estimate
from stages.execute import UNCHANGED, Job, reasons, stage_context, stage_job
from stages.registry import LAST, needed
from stages.walk import Upstream, walk

State = Literal["hit", "stale", "follows", "blocked"]


@dataclass(frozen=True)
class Step:
    """One task of a plan.

    `follows`: an input is stale, so the key is not known yet (the task may still be a hit). `blocked`: the user must
    fix an error first, which is in `why`.
    """

    task: Task
    state: State
    why: tuple[str, ...]
    key: str | None = None
    artifact: Artifact | None = None
    rows: int | None = None
    """Number of rows that a run would generate; None if it is not counted or not known yet."""
    seconds_last_time: float | None = None
    cost: Cost = UNKNOWN
    """Estimated tokens, minutes and money."""
    about: bool = False
    """Whether `rows` is estimated from a sample."""


def plan(
    recipe: Recipe, store: Store, target: str = LAST, *, checksums: bool = False, prepared: bool = False
) -> list[Step]:
    """The steps to `target`, in order. Reads manifests and the row ledger; computes nothing.

    Args:
        recipe: the configuration of the run.
        store: where artifacts are.
        target: the last task.
        checksums: whether artifacts are verified by checksums and not only by sizes.
        prepared: whether the run has read its remote sources already; otherwise they are asked whether they changed.
    """

    steps: dict[str, Step] = {}  # for effects

    def visit(task: Task, upstream: Upstream) -> Step:
        latest = store.latest(task.name)
        seconds = latest.manifest.seconds if latest else None

        waiting = [name for name in _sources(task, recipe) if name not in upstream]
        if waiting:
            return Step(task, "follows", (f"follows {', '.join(waiting)}",), seconds_last_time=seconds)
        if isinstance(task, Effect):
            steps[task.name] = _plan_effect(task, recipe, upstream, store, steps)
            return steps[task.name]

        assert isinstance(task, Stage)
        try:
            with collected() as doubts:  # a source that cannot be reached
                news = () if prepared else task.unread(recipe)
            if news:
                return Step(task, "stale", (*news, *doubts), seconds_last_time=seconds)
            job = stage_job(task, recipe, upstream, store)
        except (UserError, TransientError) as error:
            return Step(task, "blocked", (str(error),), seconds_last_time=seconds)

        try:
            step = _plan_stage(task, job, recipe, upstream, store, seconds, checksums)
            return replace(step, why=(*step.why, *doubts))
        except TransientError as error:  # a file that cannot be read temporarily
            return Step(task, "blocked", (str(error),), job.key, seconds_last_time=seconds)

    return list(walk(needed(recipe, target), visit))


def finished(recipe: Recipe, store: Store, tasks: Iterable[Task]) -> dict[str, Artifact]:
    """The artifacts of stages, each after its inputs, by stage. Nothing is made: an artifact with rows that lack an
    answer of the LLM is accepted, although the next run asks for them again.

    Raises:
        UserError: a stage has no artifact for this recipe and data.
    """
    artifacts: dict[str, Artifact] = {}
    for task in tasks:
        assert isinstance(task, Stage)
        artifact = store.find(task.name, stage_job(task, recipe, artifacts, store).key)
        if artifact is None:
            what = f"stage {task.name} has no artifact for this recipe and data yet"
            raise UserError(what, hint=f"run `darec run --until {task.name}` first")
        artifacts[task.name] = artifact
    return artifacts


def _sources(task: Task, recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(file.stage for file in task.reads(recipe)))


def _plan_stage(
    stage: Stage, job: Job, recipe: Recipe, upstream: Upstream, store: Store, seconds: float | None, checksums: bool
) -> Step:
    artifact = store.artifact(stage.name, job.key)
    there = artifact.path.is_dir()
    damage = artifact.damage(checksums) if there else None
    outdated = job.outdated(artifact) if there and damage is None else None
    if there and damage is None and outdated is None:
        return Step(stage, "hit", (UNCHANGED,), job.key, artifact, 0, artifact.manifest.seconds, NOTHING)

    why = (outdated,) if outdated else (f"damaged: {damage}",) if damage else reasons(job, store)
    with collected() as notices:  # a damaged ledger, because of which more rows are generated
        pending = stage.load().pending(stage_context(stage, recipe, upstream, store)) if stage.counts_rows else None
    return Step(
        stage,
        "stale",
        (*why, *notices),
        job.key,
        rows=pending.rows if pending else None,
        about=pending.about if pending else False,
        seconds_last_time=seconds,
        cost=estimate(stage, pending, recipe, store, seconds),
    )


def _plan_effect(effect: Effect, recipe: Recipe, upstream: Upstream, store: Store, effects: Mapping[str, Step]) -> Step:
    ahead = [name for name in effect.after if name not in effects or effects[name].state != "hit"]
    if ahead:
        return Step(effect, "follows", (f"follows {', '.join(ahead)}",))
    before = effect.load().settled(stage_context(effect, recipe, upstream, store))
    if before is not None:
        return Step(effect, "hit", (before.reason,), rows=0)
    return Step(effect, "stale", (effect.undone,))
