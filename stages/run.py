"""The whole pipeline in this process, without an orchestrator: for notebooks and tests."""

from collections.abc import Collection

from darec.artifacts.store import Artifact, Store
from darec.common.progress import Progress
from schemas.recipe import Recipe
from stages.execute import Job, Result, execute
from stages.registry import needed


def run(
    recipe: Recipe, until: str = "publish", force: Collection[str] = (), progress: Progress | None = None
) -> list[Result]:
    """Every stage that `until` needs, in order; hits are taken, the rest is done.

    Raises:
        DarecError: what the first stage that failed could not do.
    """
    store = Store(recipe.runtime.store)
    done: dict[str, Artifact] = {}
    results = []
    for stage in needed(recipe, until):
        result = execute(Job(stage, recipe, done), store, progress, force=stage.name in force)
        if result.artifact is not None:
            done[stage.name] = result.artifact
        results.append(result)
    return results
