"""`darec report`: the HTML report of a release."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.reports import write_report
from pipelines.show import print_plain


def report(
    release: Annotated[
        str | None, typer.Option("--release", help="Id of the release.", show_default="the newest")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write.", show_default="reports/RELEASE.html in the store")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing HTML page.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the HTML report of a release as a single file."""
    _, store = open_recipe(recipe, overrides)
    print_plain(str(write_report(store, release, out, overwrite=overwrite)))
