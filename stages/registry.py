"""Finds stages by name, and the stages that a recipe needs in the order of their inputs."""

import difflib
from graphlib import TopologicalSorter

from darec.common.errors import UserError
from schemas.recipe import Recipe
from stages import declarations
from stages.contract import Effect, Stage, Task

TASKS: dict[str, Task] = {task.name: task for task in vars(declarations).values() if isinstance(task, Task)}
STAGES: dict[str, Stage] = {name: task for name, task in TASKS.items() if isinstance(task, Stage)}
LAST = declarations.PUBLISH.name
"""The last task of a whole run, except for lists and vectors if the recipe has them."""


def task_named(name: str) -> Task:
    """The stage or effect of that name. Raises UserError that suggests the nearest name."""
    if name in TASKS:
        return TASKS[name]
    nearest = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(TASKS)}"
    raise UserError(f"there is no stage {name!r}", hint=hint)


def needed(recipe: Recipe, target: str = LAST) -> list[Task]:
    """The tasks that `target` needs under `recipe`, each after its inputs; the semantic subflow comes first.

    A recipe without text needs no profiles.
    """
    readers: dict[str, list[str]] = {}
    waiting = [task_named(target).name]
    if target == LAST:
        outlets = {declarations.LISTS: recipe.lists, declarations.VECTORS: recipe.vectors}
        waiting += [effect.name for effect, section in outlets.items() if section]

    while waiting:
        name = waiting.pop()
        if name not in readers:
            task = TASKS[name]
            after = task.after if isinstance(task, Effect) else ()
            readers[name] = list(dict.fromkeys([*(file.stage for file in task.reads(recipe)), *after]))
            waiting += readers[name]

    # Tasks whose inputs are all available keep the order of the page, because sorting is stable.
    position = {name: number for number, name in enumerate(TASKS)}
    sorter = TopologicalSorter({name: readers[name] for name in sorted(readers, key=position.__getitem__)})
    ordered = [TASKS[name] for name in sorter.static_order()]
    return sorted(ordered, key=lambda task: task.subflow != "semantic")
