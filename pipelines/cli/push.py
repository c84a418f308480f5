"""`darec push`: make the vector store of the recipe serve the current release."""

from darec.artifacts.store import Store
from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.show import Bars, console
from schemas.recipe import Recipe


def push(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Push the current release into the vector store of the recipe, unless it is there already.

    `darec run`, `rollback` and `promote` also push. Use this command if they could not reach the vector store.
    """
    loaded, store = open_recipe(recipe, overrides)
    if loaded.vectors is None:
        hint = "add `vectors: {store: pgvector, address: ...}` to the recipe"
        raise UserError("the recipe has no section vectors", where="vectors", hint=hint)
    push_current(loaded, store)


def push_current(recipe: Recipe, store: Store) -> None:
    """Makes the vector store, if the recipe has one, serve the release in production, and prints a message."""
    if recipe.vectors is None:
        return
    from darec.serving.vectors import follow_by_hand

    with Bars("vectors") as bars:
        done = follow_by_hand(store, recipe.vectors, bars)
    console.print(f"{recipe.vectors.store}: {done}", highlight=False)
