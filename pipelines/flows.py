"""The flows: `darec` with its subflows `semantic` and `collaborative`; every stage is a task.

`pipelines.direct` runs the same stages without Prefect.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS,
    temporary_settings,
)
from prefect.states import Cancelled, Completed
from prefect.tasks import Task as PrefectTask
from prefect.tasks import exponential_backoff

from darec.artifacts.store import Artifact, Store
from darec.common import logs
from darec.common.errors import TransientError
from darec.common.recipes import load_recipe
from darec.text.budget import one_run
from pipelines.nights import recorded
from pipelines.pools import Source, pool_of, pools, run_in_pool
from pipelines.reports import report_run
from pipelines.show import console, harmless
from pipelines.show_ui import UIBars, show_plan, show_report, show_result
from pipelines.tracking import track_report
from schemas.recipe import Recipe
from schemas.reports import ProfileReport
from stages.contract import Stage, Subflow, Task
from stages.execute import Result
from stages.plan import plan
from stages.prepare import prepare
from stages.registry import LAST, TASKS, needed
from stages.walk import Upstream, run_task, walk

_COUNTED_AFTER = ("split", "profile_items")  # after these, the plan can count the rows of the next LLM stage
_MAX_DELAY = timedelta(hours=3)  # a scheduled run that is later is cancelled


def is_transient(task: PrefectTask[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Retries transient errors only."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


retrying = partial(
    task,
    cache_policy=NO_CACHE,  # the store is the cache: Prefect's cache keys contain neither prompts nor models
    retries=3,
    # Prefect ignores its own setting for tasks that have a delay.
    retry_delay_seconds=PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS.value() or exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)


prepared = retrying(name="prepare")(prepare)


@retrying()
def run_stage(name: str, recipe: Recipe, upstream: dict[str, Artifact], force: bool) -> Any:
    """Runs one stage. A hit ends in a state named Cached with the reason."""
    store = Store(recipe.runtime.store)
    with UIBars(name) as bars:
        result = run_task(TASKS[name], recipe, upstream, store, bars, force=force)
    with harmless(f"the result of {name}"):
        show_result(result, store)
    why = "; ".join(result.why)
    get_run_logger().info("%s: %s (%s)", name, result.state, why)
    return Completed(name="Cached", message=why, data=result) if result.cached else result


def _run_stages(
    subflow: Subflow, recipe: Recipe, source: Source, until: str, force: Collection[str], before: Sequence[Result]
) -> list[Result]:
    """Runs the tasks of one subflow, each in its work pool if it has one."""
    store = Store(recipe.runtime.store)

    def visit(task: Task, upstream: Upstream) -> Result:
        step = run_stage.with_options(name=task.name)
        forced, done = task.name in force, False
        if isinstance(task, Stage) and (pool := pool_of(task, recipe)):
            done = run_in_pool(task, pool, recipe, source, upstream, store, forced)
        # state first, then result: a plain call would return the Cached state itself
        state = step(task.name, recipe, dict(upstream), forced and not done, return_state=True)
        result = state.result()
        if done:  # the hit was made by this run
            made = result.artifact.manifest
            result = replace(result, state="done", why=made.why, seconds=made.seconds)
            if isinstance(result.report, ProfileReport):
                with one_run() as spending:
                    spending.add(result.report.prompt_tokens, result.report.output_tokens)

        if task.name in _COUNTED_AFTER and not result.cached:
            with harmless("the plan"):
                show_plan(plan(recipe, store, until, prepared=True))

        return result

    tasks = [task for task in needed(recipe, until) if task.subflow == subflow]
    done = {result.stage: result.artifact for result in before if result.artifact is not None}
    return list(walk(tasks, visit, done))


@flow(name="semantic", validate_parameters=False)
def semantic(recipe: Recipe, source: Source, until: str, force: Collection[str]) -> list[Result]:
    """Logs and text in; the split and one text vector per user and item out."""
    return _run_stages("semantic", recipe, source, until, force, ())


@flow(name="collaborative", validate_parameters=False)
def collaborative(
    recipe: Recipe, source: Source, until: str, force: Collection[str], before: Sequence[Result]
) -> list[Result]:
    """Graph, training, evaluation, export, and the release if it passes the gate."""
    return _run_stages("collaborative", recipe, source, until, force, before)


@flow(name="darec")
def darec(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    until: str = LAST,
    force: list[str] | None = None,
) -> list[Result]:
    """The whole pipeline. A run that was scheduled hours ago is cancelled.

    Args:
        recipe: path of a recipe file; None for the built-in defaults.
        overrides: `section.field=value` overrides of the recipe.
        until: the last stage to run.
        force: stages to run even if they are hits.
    """
    if late := _missed_night():
        return Cancelled(message=late)  # pyright: ignore[reportReturnType]  (Prefect makes it the run's own state)

    logs.configure()
    # The recipe is read once: later edits apply to the next run.
    loaded = load_recipe(Path(recipe) if recipe else None, overrides or [])
    store = Store(loaded.runtime.store)
    with recorded(store, flow_run.name, loaded) as results:
        pools(loaded)  # a wrong name is reported before anything runs
        prepared(loaded, until)
        with store.in_use():
            with harmless("the plan"):
                show_plan(plan(loaded, store, until, prepared=True))
            source = Source(recipe, overrides or [])
            results.extend(semantic(loaded, source, until, force or []))
            results.extend(collaborative(loaded, source, until, force or [], results))

    with store.in_use():
        _report(store, loaded, results)
    _name_run(results)
    return results


def _missed_night() -> str | None:
    """Why this run is cancelled: it was scheduled while no worker was online. Manual runs are never cancelled."""
    if "auto-scheduled" not in flow_run.tags:
        return None
    late = datetime.now(UTC) - flow_run.scheduled_start_time
    if late < _MAX_DELAY:
        return None
    hours = late.total_seconds() / 3600
    return f"{hours:.0f} hours late: missed runs are not made up for, the next run reads the same data"


def _report(store: Store, recipe: Recipe, results: Sequence[Result]) -> None:
    """Writes the report. A failure is shown in the UI and does not fail the run."""
    state = task(name="report", cache_policy=NO_CACHE)(report_run)(store, results, return_state=True)
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, Exception):
        console.print(f"No report: {outcome}", markup=False, highlight=False)
        return

    console.print(f"Report: {outcome}", markup=False, highlight=False)
    with harmless("the report"):
        show_report(outcome)
    track_report(recipe, flow_run.name, outcome)


def _name_run(results: Sequence[Result]) -> None:
    """Adds the decision of the gate to the name of the run, which lists of runs show."""
    decided = next((result for result in results if result.state in ("published", "refused")), None)
    if decided is None:
        return
    with harmless("the run's name"), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=f"{decided.state} {decided.report.release}")


def without_heartbeats() -> AbstractContextManager[Any]:
    """Heartbeats show the server that a run is alive. They cost a second per flow, so a run with only hits has none."""
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
