"""`darec run`: the pipeline, in this process or, with a Prefect server, as a Prefect flow."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from darec.common.errors import DarecError, UserError
from pipelines.cli.options import WHOLE_RUN, RecipeOption, SetOption, UntilOption, open_recipe, recipe_path, stage_names
from pipelines.show import console, harmless, remark_lines
from pipelines.tables import print_plan, print_results
from schemas.secret import redacted
from stages.execute import Result
from stages.plan import Step, plan
from stages.registry import task_named

REFUSED = 3
"""Exit code of `darec run --require-publish` if the release is not published."""


_ForceOption = Annotated[
    list[str] | None,
    typer.Option("--force", help="Run this stage even if it is a hit. May be repeated.", autocompletion=stage_names),
]
_PrefectOption = Annotated[
    bool, typer.Option("--prefect", help="Run as a Prefect flow even if no Prefect server is configured.")
]
_RequireOption = Annotated[
    bool, typer.Option("--require-publish", help=f"Exit with code {REFUSED} if the release is not published.")
]


def run(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    until: UntilOption = WHOLE_RUN,
    force: _ForceOption = None,
    prefect: _PrefectOption = False,
    require_publish: _RequireOption = False,
) -> None:
    """Run the pipeline: reuse cached stages, run the others, and publish the release if it passes the gate.

    With PREFECT_API_URL set, the run is a flow of that Prefect server; otherwise it runs in this process.
    """
    from pipelines.api import configured_url
    from pipelines.direct import run_directly

    force = force or []
    for name in [until, *force]:
        task_named(name)
    loaded, store = open_recipe(recipe, overrides)
    steps: list[Step] = []
    with harmless("the plan", but=(DarecError,)):
        steps = plan(loaded, store, until)
        print_plan(steps, loaded.llm)

    if prefect or configured_url() is not None:
        idle = not force and bool(steps) and all(step.state == "hit" for step in steps)
        results = _run_flow(recipe, overrides or [], until, force, idle)
    else:
        results = run_directly(loaded, until, force)

    with harmless("the results"):
        print_results(results)
        for line in remark_lines(results):
            console.print(line)

    if until == WHOLE_RUN:
        console.print(f"Artifacts and releases: {loaded.runtime.store}")
        console.print(
            "Next: darec recommend --user ID, darec similar --item ID, darec releases, darec explain evaluate"
        )

    decisions = [result.report.state for result in results if result.stage == WHOLE_RUN]
    if require_publish and decisions != ["published"]:
        raise typer.Exit(REFUSED)


def _run_flow(recipe: Path | None, overrides: list[str], until: str, force: list[str], idle: bool) -> list[Result]:
    """The Prefect flow, on the configured server or on a temporary one."""
    from pipelines.api import answering, prefect_api, quick_imports

    if any(redacted(text) != text for text in overrides):
        hint = "write it into the recipe file, or keep the key in the variable that llm.api_key_env names"
        raise UserError("Prefect would keep the password of --set in its database", where="--set", hint=hint)

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the terminal has its own display
    path = recipe_path(recipe)
    with prefect_api() as server:
        with quick_imports():
            from pipelines import flows

        if server is not None:
            server.wait()
        with answering(), flows.without_heartbeats() if idle else nullcontext():
            return flows.darec(str(path) if path else None, overrides, until, force)
