"""`darec data`: raw data."""

from typing import Annotated

import typer

from pipelines.cli.options import Commands, RecipeOption, SetOption, open_recipe
from pipelines.show import console

app = Commands(help="Fetch raw data, or describe your own.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Raw data."""


@app.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="Public data set (ml-100k). Without a name, the remote sources of the recipe.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything again, regardless of watermarks and versions.")
    ] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Download a public data set, or update the copies of the recipe's remote sources, as a run does."""
    from darec.dataset.fetch import fetch as fetch_data
    from stages.prepare import read_sources

    loaded, _ = open_recipe(recipe, overrides)
    if name is not None:
        console.print(f"{name}: {fetch_data(name, loaded.data.folder)}")
        return

    lines = read_sources(loaded, full=full)
    for line in lines or ["The recipe reads only local files: there is nothing to fetch."]:
        console.print(line, markup=False, highlight=False)


@app.command()
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, URLs or ADDRESS#TABLE of interactions, items and users."),
    ],
) -> None:
    """Print a recipe for your files or tables. Recognised properties and warnings are printed to stderr.

    Example: `darec data inspect log.csv items.csv > configs/mine.yaml`.
    """
    from darec.dataset.inspect import inspect as inspect_files

    found = inspect_files(files)
    for mark, lines in (("seen", found.seen), ("doubt", found.doubts)):
        for line in lines:
            typer.echo(f"{mark}: {''.join(filter(str.isprintable, line))}", err=True)
    typer.echo("seen: `search: {}` chooses on validation how much the texts count", err=True)
    typer.echo(found.yaml, nl=False)
