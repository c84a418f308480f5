"""The flows: `darec` with its subflows `semantic` and `collaborative`; every stage is a task."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Completed
from prefect.tasks import Task, exponential_backoff

from darec.artifacts.store import Store
from darec.common.errors import TransientError
from darec.common.recipes import load_recipe
from pipelines.report_command import report_run
from pipelines.show import Bars, console, result_row
from pipelines.show_ui import show_plan, show_result
from schemas.recipe import Recipe
from stages.execute import Job, execute
from stages.plan import plan
from stages.prepare import prepare
from stages.registry import COLLABORATIVE, SEMANTIC, STAGES, needed

StageRows = list[dict[str, Any]]
_COUNTED_AFTER = ("split", "profile_items")  # then the plan can count the rows of the LLM stage that reads these
_STILL_TONIGHT = timedelta(hours=3)  # a worker that is back later than that leaves the night out


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Only what may pass by itself is worth another try; a user's fault is not."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


retrying = partial(
    task,
    cache_policy=NO_CACHE,  # the store is the cache: Prefect's own knows neither prompts nor models
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)


prepared = retrying(name="prepare")(prepare)


@retrying()
def run_stage(name: str, keys: dict[str, str], recipe: str | None, overrides: Sequence[str], force: bool) -> Any:
    """Makes or finds one stage's artifact; a hit ends in a state named Cached that says why."""
    loaded = _load(recipe, overrides)
    store = Store(loaded.runtime.store)
    job = Job(STAGES[name], loaded, {source: store.artifact(source, key) for source, key in keys.items()})
    with Bars(name) as bars:
        result = execute(job, store, bars, force=force)
    show_result(result, store)
    row = result_row(result)
    get_run_logger().info("%s: %s (%s)", name, row["state"], row["why"])
    return Completed(name="Cached", message=row["why"], data=row) if result.cached else row


def _run_stages(
    group: Sequence[str],
    rows: StageRows,
    recipe: str | None,
    overrides: Sequence[str],
    until: str,
    force: Sequence[str],
) -> StageRows:
    loaded = _load(recipe, overrides)
    rows = list(rows)
    for stage in needed(loaded, until):
        if stage.name not in group:
            continue
        done = {row["stage"]: row["key"] for row in rows}
        keys = {source.stage: done[source.stage] for source in stage.inputs(loaded)}
        step = run_stage.with_options(name=stage.name)
        # asked for its state and then its result: a call alone would answer a Cached state with the state itself
        state = step(stage.name, keys, recipe, overrides, stage.name in force, return_state=True)
        rows.append(state.result())
        if stage.name in _COUNTED_AFTER and rows[-1]["state"] != "cached":
            store = Store(loaded.runtime.store)
            show_plan(plan(loaded, store, until), store)
    return rows


@flow(name="semantic", validate_parameters=False)
def semantic(
    rows: StageRows, recipe: str | None, overrides: Sequence[str], until: str, force: Sequence[str]
) -> StageRows:
    """Logs and text in; the split and one text vector a user and an item out."""
    return _run_stages([stage.name for stage in SEMANTIC], rows, recipe, overrides, until, force)


@flow(name="collaborative", validate_parameters=False)
def collaborative(
    rows: StageRows, recipe: str | None, overrides: Sequence[str], until: str, force: Sequence[str]
) -> StageRows:
    """Graph, training, evaluation, export, and the release if the gate lets it pass."""
    return _run_stages([stage.name for stage in COLLABORATIVE], rows, recipe, overrides, until, force)


@flow(name="darec")
def darec(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    until: str = "publish",
    force: list[str] | None = None,
) -> StageRows:
    """The whole pipeline; a night that was scheduled hours ago is cancelled, and not caught up.

    Args:
        recipe: path of a recipe file; None for the built-in defaults.
        overrides: `section.field=value` settings laid over it.
        until: the last stage to run.
        force: stages to run though there is a hit.
    """
    if late := _missed_night():
        return Cancelled(message=late)  # pyright: ignore[reportReturnType]  (Prefect makes it the run's own state)
    overrides, force = overrides or [], force or []
    _read.cache_clear()
    loaded = _load(recipe, overrides)
    store = Store(loaded.runtime.store)
    prepared(loaded)
    with store.in_use():
        show_plan(plan(loaded, store, until), store)
        rows = semantic([], recipe, overrides, until, force)
        rows = collaborative(rows, recipe, overrides, until, force)
        _report(store, rows)
        return rows


def _missed_night() -> str | None:
    """Why this run shall not be: the schedule wanted it while no worker was there. Runs by hand are always wanted."""
    if "auto-scheduled" not in flow_run.tags:
        return None
    late = datetime.now(UTC) - flow_run.scheduled_start_time
    if late < _STILL_TONIGHT:
        return None
    return f"{late.total_seconds() / 3600:.0f} hours late: nights are not caught up, the next one reads the same data"


def _report(store: Store, rows: StageRows) -> None:
    """A report that cannot be written is red in the UI, and fails no run."""
    state = task(name="report", cache_policy=NO_CACHE)(report_run)(store, rows, return_state=True)
    outcome = state.result(raise_on_failure=False)
    label = "Report" if state.is_completed() else "No report"
    console.print(f"{label}: {outcome}", markup=False, highlight=False)


def without_heartbeats() -> AbstractContextManager[Any]:
    """Heartbeats let a server notice a dead run, and cost a second a flow: a run with nothing to do goes without."""
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _load(recipe: str | None, overrides: Sequence[str]) -> Recipe:
    return _read(recipe, tuple(overrides))


@cache
def _read(recipe: str | None, overrides: tuple[str, ...]) -> Recipe:
    """One run goes by one recipe: what is edited meanwhile counts from the next run on."""
    return load_recipe(Path(recipe) if recipe else None, overrides)
