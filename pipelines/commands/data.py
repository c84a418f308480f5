"""`darec data`: raw data."""

from typing import Annotated

import typer

from pipelines.commands.options import RecipeOption, SetOption, open_recipe
from pipelines.show import console

app = typer.Typer(help="Fetch raw data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Raw data."""


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The data set: ml-100k.")],
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Fetch a public data set into the folder that the recipe reads it from."""
    from darec.dataset.fetch import fetch as fetch_data

    loaded, _ = open_recipe(recipe, overrides)
    console.print(f"{name}: {fetch_data(name, loaded.data.folder)}")
