"""The command line: its commands, their groups, and the handling of errors. Each command is one file.

Heavy modules are imported inside the commands, so that `darec status` answers in a second.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from darec.common.errors import DarecError, LimitError
from darec.common.logs import FORMAT_VARIABLE, configure
from darec.common.memory import check_address_space
from darec.common.version import __version__
from pipelines.cli import (
    bench,
    compare,
    config,
    data,
    deploy,
    diff,
    doctor,
    explain,
    forget,
    gc,
    history,
    models,
    promote,
    prompt,
    push,
    recommend,
    releases,
    report,
    rollback,
    run,
    serve,
    similar,
    status,
    tune,
    ui,
)
from pipelines.cli.options import Commands
from pipelines.show import print_error

_logger = logging.getLogger(__name__)

_GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Pipeline": (run.run, status.status, explain.explain, report.report),
    "Releases": (
        recommend.recommend,
        similar.similar,
        serve.serve,
        releases.releases,
        diff.diff,
        promote.promote,
        rollback.rollback,
        push.push,
    ),
    "Operations": (ui.ui, history.history, deploy.deploy, doctor.doctor, gc.gc, forget.forget),
    "Research": (compare.compare, tune.tune),
}

_OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory", "memory allocation of")
"""Messages of PyTorch and Polars."""

_LIGHT = {"config", "history", "releases", "rollback", "promote", "gc", "doctor"}
"""Commands that load no large library and need little memory."""

app = Commands(
    name="darec",
    help="Train, evaluate and publish a recommender every night, with LLM profiles and disentangled alignment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for panel, commands in _GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(config.app, name="config", rich_help_panel="Setup")
app.add_typer(data.app, name="data", rich_help_panel="Setup")
app.add_typer(models.app, name="models", rich_help_panel="Setup")
app.add_typer(prompt.app, name="prompt", rich_help_panel="Research")
app.add_typer(bench.app, name="bench", rich_help_panel="Research")


INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"darec {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", envvar=FORMAT_VARIABLE, help="text, or json for one JSON object per line.")
    ] = "text",
) -> None:
    """Options before the command."""
    if debug:
        os.environ["DAREC_DEBUG"] = "1"
    os.environ[FORMAT_VARIABLE] = log_format  # also for child processes
    configure()
    if context.invoked_subcommand not in _LIGHT:
        check_address_space()


def main() -> None:
    """Entry point."""
    configure("text")  # until the options are read
    sys.exit(guarded(app))


def guarded(action: Callable[[], Any]) -> int:
    """Runs `action`. A failure becomes one line and an exit code: 2 for an error that the user can fix, 1 for others.

    With --debug it also shows the traceback.
    """
    try:
        action()
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer turns Ctrl-C during a command into an exit with this code.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        print_error("interrupted; finished work is kept")
        return INTERRUPTED
    except BaseException as error:
        # Polars' PanicException is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if os.environ.get("DAREC_DEBUG"):
            print_error(traceback.format_exc())
        return report_failure(error)
    return 0


def report_failure(error: BaseException) -> int:
    """Logs the error's one line; returns the exit code."""
    if isinstance(error, DarecError):
        _logger.log(logging.WARNING if isinstance(error, LimitError) else logging.ERROR, "%s", error)
        return error.exit_code

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" [{error.filename}]" if error.filename else ""
        _logger.error("the disk is full%s -> free space (`darec gc`), and run again", place)
        return 2

    if isinstance(error, OSError) and error.filename:
        hint = "make the path readable and writable, and run again"
        _logger.error("%s [%s] -> %s", error.strerror, error.filename, hint)
        return 1

    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        _logger.error("out of memory -> free memory, or lower train.batch_size and train.dim")
        return 1

    first = (str(error) or repr(error)).splitlines()[0]
    _logger.error("%s: %s -> run again with --debug and report it", type(error).__name__, first)
    return 1
