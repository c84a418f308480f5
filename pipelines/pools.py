"""Stages on other machines: which work pool a stage runs in, and the flow that a worker of that pool runs.

All machines share one store. A stage is passed on by names: the recipe, its overrides, and the keys of the artifacts
that the stage reads. The machine of the worker reads the recipe itself, so no password is in Prefect's database, and
settings that are in no key (folders, numbers of processes) may differ. A recipe that leads to another key is refused.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed

from darec.artifacts.store import Artifact, Store
from darec.common import logs
from darec.common.errors import DarecError, LimitError, UserError
from darec.common.recipes import load_recipe
from darec.text.budget import Spending, one_run
from schemas.recipe import Recipe
from stages.contract import Stage, Task
from stages.execute import stage_job
from stages.registry import STAGES

FLOW = "stage"
FOLDER_VARIABLE = "DAREC_PROJECT"
_AT_LIMIT = "Limit"  # the state of a stage that stopped because a limit of the run was reached
_LOOK = 2.0  # interval between two checks of a stage that runs elsewhere, in seconds


@dataclass(frozen=True)
class Source:
    """Where a recipe was read from."""

    recipe: str | None
    overrides: Sequence[str] = ()


def pool_of(task: Task, recipe: Recipe) -> str | None:
    """The work pool that a stage runs in; None for the process of the run. Publishing is never passed on."""
    if not isinstance(task, Stage):
        return None
    return recipe.runtime.pools.get(task.name) or recipe.runtime.pools.get(task.subflow)


def pools(recipe: Recipe) -> list[str]:
    """The work pools of a recipe. Raises UserError if one is set for an unknown stage."""
    known = {*STAGES, *(stage.subflow for stage in STAGES.values())}
    if unknown := sorted(set(recipe.runtime.pools) - known):
        hint = f"name stages or subflows: {', '.join(sorted(known))}"
        raise UserError(f"there is no stage {unknown[0]!r}", where="runtime.pools", hint=hint)
    return sorted(set(recipe.runtime.pools.values()))


def run_in_pool(
    stage: Stage, pool: str, recipe: Recipe, source: Source, upstream: Mapping[str, Artifact], store: Store, force: bool
) -> bool:
    """Runs a stage in a pool and waits for it. Returns False for a hit, which needs no worker.

    Raises:
        LimitError: a limit of the run was reached there.
        DarecError: it failed there; the run in Prefect's UI shows why.
    """
    job = stage_job(stage, recipe, upstream, store)
    if not force and job.find(store) is not None:
        return False
    with one_run() as spending:
        spent = [spending.prompt_tokens, spending.output_tokens]
    parameters: dict[str, Any] = {
        "name": stage.name,
        "key": job.key,
        "upstream": {name: artifact.key for name, artifact in upstream.items()},
        "recipe": source.recipe,
        "overrides": list(source.overrides),
        "force": force,
        "spent": spent,
    }
    try:
        run: Any = run_deployment(
            f"{FLOW}/{pool}", parameters=parameters, flow_run_name=stage.name, poll_interval=_LOOK
        )
    except ObjectNotFound as error:
        hint = "register it with `darec deploy --recipe RECIPE`, and start a worker: `prefect worker start --pool POOL`"
        raise UserError(f"there is no work pool {pool} for stages", where="runtime.pools", hint=hint) from error
    if run.state is not None and run.state.name == _AT_LIMIT:
        raise LimitError(str(run.state.message))
    if run.state is None or run.state.type != StateType.COMPLETED:
        why = run.state.message if run.state else "unknown"
        raise DarecError(f"{stage.name} failed in work pool {pool}: {why}", where=f"flow run {run.name}")
    return True


def enter_folder(folder: str) -> dict[str, str]:
    """The step before each stage in a pool: it runs in the folder that its machine names, or else in `folder`.

    Raises:
        UserError: there is no such folder on this machine.
    """
    place = Path(os.environ.get(FOLDER_VARIABLE) or folder)
    if not place.is_dir():
        hint = "set it to the folder with the recipe and the prompts, for the worker of this machine"
        raise UserError(f"there is no folder {place}", where=FOLDER_VARIABLE, hint=hint)
    os.chdir(place)
    return {"directory": str(place)}


@flow(name=FLOW, flow_run_name="{name}", validate_parameters=False)
def stage(
    name: str,
    key: str,
    upstream: dict[str, str],
    recipe: str | None = None,
    overrides: list[str] | None = None,
    force: bool = False,
    spent: Sequence[int] = (0, 0),
) -> State | None:
    """Runs one stage of a run that is elsewhere, on the store that both share.

    Args:
        name: the stage.
        key: key of the expected artifact.
        upstream: keys of the artifacts that it reads, by stage.
        recipe: path of the recipe file on this machine; None for the built-in defaults.
        overrides: `section.field=value` overrides of the recipe.
        force: run it even if its artifact exists.
        spent: prompt and output tokens of the LLM that the run has used before, which its limits count.

    Returns:
        A failed state of its own name if a limit of the run is reached, otherwise None.
    """
    from pipelines.flows import run_stage

    logs.configure()
    loaded = load_recipe(Path(recipe) if recipe else None, overrides or [])
    store = Store(loaded.runtime.store)
    with store.in_use():
        found = {other: store.find(other, other_key) for other, other_key in upstream.items()}
        artifacts = {other: artifact for other, artifact in found.items() if artifact is not None}
        if missing := sorted(found.keys() - artifacts.keys()):
            hint = "all machines must have the same runtime.store"
            raise UserError(f"the store lacks the result of {missing[0]}", where=str(store.root), hint=hint)
        if stage_job(STAGES[name], loaded, artifacts, store).key != key:
            hint = "copy the same recipe, prompts and models to every machine, and install the same version of darec"
            raise UserError(f"{name} would make another result on this machine", where=str(recipe), hint=hint)
        try:
            with one_run(Spending(*spent)):
                run_stage.with_options(name=name)(name, loaded, artifacts, force)
        except LimitError as error:
            return Failed(name=_AT_LIMIT, message=str(error))
    return None
