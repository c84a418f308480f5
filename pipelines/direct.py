"""A run in this process, without a Prefect server: the same walk over the same stages as the flow takes."""

import sys
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from darec.artifacts.store import Store
from darec.common.errors import TransientError
from pipelines.reports import report_run
from pipelines.show import Bars, console, harmless
from schemas.recipe import Recipe
from stages.contract import Task
from stages.execute import Result
from stages.prepare import prepare
from stages.registry import needed
from stages.walk import Upstream, run_task, walk

_PAUSES = (10, 20, 40)  # seconds before each retry after a transient error, as in the flow

Done = TypeVar("Done")


def run_directly(recipe: Recipe, until: str, force: Collection[str]) -> list[Result]:
    """Runs every task that `until` needs, then writes the HTML report.

    Raises:
        DarecError: what the first task that failed could not do.
    """
    store = Store(recipe.runtime.store)
    _retrying(lambda: prepare(recipe))

    def visit(task: Task, upstream: Upstream) -> Result:
        with Bars(task.name) as bars:
            return _retrying(lambda: run_task(task, recipe, upstream, store, bars, force=task.name in force))

    with store.in_use():
        results = list(walk(needed(recipe, until), visit))
        with harmless("the report"):
            console.print(f"Report: {report_run(store, results)}", markup=False, highlight=False)
    return results


def _retrying(action: Callable[[], Done]) -> Done:
    """Tries again after a transient error; what a stage has finished by then is kept."""
    for pause in _PAUSES:
        try:
            return action()
        except TransientError as error:
            print(f"{error}; next try in {pause} s", file=sys.stderr)
            time.sleep(pause)
    return action()
