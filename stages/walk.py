"""The walk over the tasks of the pipeline, which is used to run them, to plan them, and to pass them to an
orchestrator."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from darec.artifacts.store import Artifact, Store
from darec.common import logs
from darec.common.progress import Progress
from schemas.recipe import Recipe
from stages.contract import Effect, Stage, Task
from stages.execute import Result, execute, perform, stage_job
from stages.registry import LAST, needed


class Visited(Protocol):
    """What a visit gives; tasks further on read its artifact."""

    @property
    def artifact(self) -> Artifact | None:
        """The artifact of the task, if it exists."""
        ...


Visit = TypeVar("Visit", bound=Visited)
Upstream = Mapping[str, Artifact]

_logger = logging.getLogger(__name__)


def walk(
    tasks: Iterable[Task], visit: Callable[[Task, Upstream], Visit], done: dict[str, Artifact] | None = None
) -> Iterator[Visit]:
    """Visits the tasks in order. Each visit gets the artifacts of the tasks before.

    Args:
        tasks: the tasks, each after its inputs (`stages.registry.needed`).
        visit: called with each task and the artifacts so far by stage.
        done: artifacts of an earlier part of the same walk, to which those of this one are added.
    """
    done = {} if done is None else done
    for task in tasks:
        visited = visit(task, done)
        if visited.artifact is not None:
            done[task.name] = visited.artifact
        yield visited


def run_task(
    task: Task,
    recipe: Recipe,
    upstream: Upstream,
    store: Store,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> Result:
    """Runs one stage or effect unless it is a hit.

    Raises:
        DarecError: the task failed.
    """
    with logs.context(stage=task.name):
        if isinstance(task, Effect):
            result = perform(task, recipe, upstream, store, progress)
        else:
            assert isinstance(task, Stage)
            result = execute(stage_job(task, recipe, upstream, store), store, progress, force=force)
        row = result.row
        numbers = {name: row[name] for name in ("state", "rows", "seconds")}
        _logger.info("%s: %s (%s)", task.name, row["state"], row["why"], extra=numbers)
        return result


def run(
    recipe: Recipe, until: str = LAST, force: Collection[str] = (), progress: Progress | None = None
) -> list[Result]:
    """Runs the pipeline up to the task `until` in this process, without an orchestrator.

    Args:
        recipe: the configuration of the run.
        until: name of the last task to run.
        force: names of stages to run even if they are hits.
        progress: shows the progress of each stage.

    Returns:
        The result of each task, in order.

    Raises:
        DarecError: a task failed; the tasks before it are kept.
    """
    store = Store(recipe.runtime.store)

    def visit(task: Task, upstream: Upstream) -> Result:
        return run_task(task, recipe, upstream, store, progress, force=task.name in force)

    return list(walk(needed(recipe, until), visit))
