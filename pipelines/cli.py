"""The command line: which commands there are, in which groups, and how a failure ends."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from darec.common.errors import DarecError
from pipelines.commands import bench, config, data, models
from pipelines.commands.deploy import deploy
from pipelines.commands.diff import diff
from pipelines.commands.doctor import doctor
from pipelines.commands.explain import explain
from pipelines.commands.gc import gc
from pipelines.commands.promote import promote
from pipelines.commands.recommend import recommend
from pipelines.commands.releases import releases
from pipelines.commands.report import report
from pipelines.commands.rollback import rollback
from pipelines.commands.run import run
from pipelines.commands.similar import similar
from pipelines.commands.status import status
from pipelines.commands.tune import tune
from pipelines.commands.ui import ui

_GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Pipeline": (run, status, explain, report),
    "Releases": (recommend, similar, releases, diff, promote, rollback),
    "Operations": (ui, deploy, doctor, gc),
    "Research": (tune,),
}

app = typer.Typer(
    name="darec",
    help="Nightly recommender retraining: LLM profiles, disentangled alignment, a FAISS release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, commands in _GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(config.app, name="config", rich_help_panel="Setup")
app.add_typer(data.app, name="data", rich_help_panel="Setup")
app.add_typer(models.app, name="models", rich_help_panel="Setup")
app.add_typer(bench.app, name="bench", rich_help_panel="Research")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"darec {version('darec')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["DAREC_DEBUG"] = "1"


def main() -> None:
    """Entry point."""
    sys.exit(guarded(app))


def guarded(action: Callable[[], Any]) -> int:
    """Runs `action`; a failure becomes one clear line and an exit code: 2 for a mistake of the user, 1 for ours.

    A traceback is shown only with --debug.
    """
    try:
        action()
    except KeyboardInterrupt:
        print("interrupted: finished work is kept", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("DAREC_DEBUG"):
            traceback.print_exc()
        return report_failure(error)
    return 0


def report_failure(error: Exception) -> int:
    """Prints the error's one line; returns the exit code."""
    if isinstance(error, DarecError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    first = (str(error) or repr(error)).splitlines()[0]
    print(f"error: {type(error).__name__}: {first} -> run again with --debug and report it", file=sys.stderr)
    return 1
