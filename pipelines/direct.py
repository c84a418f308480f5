"""Runs the pipeline in this process without a Prefect server, with the same walk over the stages as the flow."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from darec.artifacts.store import Store
from darec.common.errors import TransientError
from darec.text.budget import one_run
from pipelines.nights import recorded
from pipelines.reports import report_run
from pipelines.show import Bars, console, harmless
from pipelines.tracking import track_report
from schemas.recipe import Recipe
from stages.contract import Task
from stages.execute import Result
from stages.prepare import prepare
from stages.registry import needed
from stages.walk import Upstream, run_task, walk

if TYPE_CHECKING:
    from darec.report.comparison import RunComparison

_PAUSES = (10, 20, 40)  # seconds before each retry after a transient error, as in the flow

Done = TypeVar("Done")

_logger = logging.getLogger(__name__)


def run_directly(recipe: Recipe, until: str, force: Collection[str]) -> list[Result]:
    """Runs every task that `until` needs, then writes the HTML report.

    Raises:
        DarecError: what the first task that failed could not do.
    """
    store = Store(recipe.runtime.store)
    run = uuid4().hex[:8]
    with recorded(store, run, recipe) as results:
        _retrying(lambda: prepare(recipe, until))
        with store.in_use():
            results.extend(_walk(recipe, store, until, force))

    with store.in_use(), harmless("the report"):
        report = report_run(store, results)
        console.print(f"Report: {report}", markup=False, highlight=False)
        track_report(recipe, run, report)

    return results


def compare_directly(
    names: tuple[str, str], recipes: tuple[Recipe, Recipe], store: Store, metric: str, examples: int
) -> "RunComparison":
    """Runs two recipes to their evaluation in one store, and compares them; see `darec.report.comparison`.

    Raises:
        UserError: they do not have the same split, which is found before anything else is run.
        DarecError: what the first task that failed could not do.
    """
    from darec.report.comparison import check_same_split, compare_runs
    from darec.report.source import Source

    def sources(until: str) -> tuple[Source, Source]:
        first, second = (
            {result.stage: result.artifact for result in _walk(recipe, store, until) if result.artifact}
            for recipe in recipes
        )
        return Source(store, first, None), Source(store, second, None)

    with one_run(), store.in_use():
        for recipe in recipes:
            _retrying(partial(prepare, recipe))
        check_same_split(*sources("split"))
        return compare_runs(names, recipes, sources("evaluate"), metric, examples)


def _walk(recipe: Recipe, store: Store, until: str, force: Collection[str] = ()) -> Iterator[Result]:
    def visit(task: Task, upstream: Upstream) -> Result:
        with Bars(task.name) as bars:
            return _retrying(lambda: run_task(task, recipe, upstream, store, bars, force=task.name in force))

    return walk(needed(recipe, until), visit)


def _retrying(action: Callable[[], Done]) -> Done:
    """Retries after a transient error. Finished work of a stage is kept."""
    for pause in _PAUSES:
        try:
            return action()
        except TransientError as error:
            _logger.warning("%s; retry in %s s", error, pause)
            time.sleep(pause)
    return action()
