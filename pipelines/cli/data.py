"""`darec data`: raw data."""

from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.show import console

app = typer.Typer(help="Fetch raw data, or describe your own.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Raw data."""


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set: ml-100k.")],
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Download a public data set into the folder that the recipe reads."""
    from darec.dataset.fetch import fetch as fetch_data

    loaded, _ = open_recipe(recipe, overrides)
    console.print(f"{name}: {fetch_data(name, loaded.data.folder)}")


@app.command()
def inspect(
    files: Annotated[list[str], typer.Argument(help="Files, folders or globs: interactions, and items and users.")],
) -> None:
    """Print a recipe for your files. What was recognised and what is doubtful is printed to stderr.

    `darec data inspect log.csv items.csv > configs/mine.yaml`, then `darec run --recipe configs/mine.yaml`.
    """
    from darec.dataset.inspect import inspect as inspect_files

    found = inspect_files(files)
    for mark, lines in (("seen", found.seen), ("doubt", found.doubts)):
        for line in lines:
            typer.echo(f"{mark}: {''.join(filter(str.isprintable, line))}", err=True)
    typer.echo(found.yaml, nl=False)
