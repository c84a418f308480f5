"""Options that several commands share, and loading the recipe."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from pipelines.show import print_plain
from schemas.recipe import Recipe
from stages.registry import LAST, TASKS

DEFAULT_RECIPE = Path("configs/movielens-100k.yaml")


class Commands(typer.Typer):
    """Commands whose help is their docstring, with each paragraph wrapped by the terminal."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Registers a command, as in Typer."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            paragraphs = (inspect.getdoc(function) or "").split("\n\n")
            text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            return typer.Typer.command(self, name, help=text, **settings)(function)

        return register


def stage_names() -> list[str]:
    """All stages, for completion in the shell."""
    return list(TASKS)


RecipeOption = Annotated[
    Path | None,
    typer.Option(
        "--recipe", "-r", envvar="DAREC_RECIPE", help="Recipe file.", show_default=f"{DEFAULT_RECIPE} if it exists"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value of the recipe: section.field=value. May be repeated."),
]
UntilOption = Annotated[str, typer.Option("--until", help="The last stage to run.", autocompletion=stage_names)]
StageArgument = Annotated[str, typer.Argument(help="Name of a stage, such as train.", autocompletion=stage_names)]
ReleaseArgument = Annotated[str, typer.Argument(help="Id of a release, or a unique prefix or suffix of an id.")]
CountOption = Annotated[int, typer.Option("-k", min=1, help="Number of items.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WhyOption = Annotated[str, typer.Option("--why", help="Reason, which is recorded with the release.")]

WHOLE_RUN = LAST


def recipe_path(recipe: Path | None) -> Path | None:
    """The path that was given, else the default recipe if it exists, else None for the built-in defaults."""
    return recipe or (DEFAULT_RECIPE if DEFAULT_RECIPE.is_file() else None)


def open_recipe(recipe: Path | None, overrides: list[str] | None) -> tuple[Recipe, Store]:
    """The recipe with its overrides, and its store."""
    loaded = load_recipe(recipe_path(recipe), overrides or ())
    return loaded, Store(loaded.runtime.store)


def print_json(value: Any) -> None:
    """Machine-readable output, free of colour and wrapping."""
    print_plain(json.dumps(value, indent=1, ensure_ascii=False, default=str))
