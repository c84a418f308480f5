"""`darec push`: bring the vector store of the recipe to the current release."""

from darec.artifacts.store import Store
from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.show import Bars, console
from schemas.recipe import Recipe


def push(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Push the current release into the vector store of the recipe, unless it is there already.

    A run does so after publishing, and so do rollback and promote. This command repeats it where the vector store did
    not answer then.
    """
    loaded, store = open_recipe(recipe, overrides)
    if loaded.vectors is None:
        hint = "add `vectors: {store: pgvector, address: ...}` to the recipe"
        raise UserError("the recipe has no section vectors", where="vectors", hint=hint)
    push_current(loaded, store)


def push_current(recipe: Recipe, store: Store) -> None:
    """Brings the vector store, if the recipe has one, to the release in production, and says so."""
    if recipe.vectors is None:
        return
    from darec.serving.vectors import follow_by_hand

    with Bars("vectors") as bars:
        done = follow_by_hand(store, recipe.vectors, bars)
    console.print(f"{recipe.vectors.store}: {done}", highlight=False)
