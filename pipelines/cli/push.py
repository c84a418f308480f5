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


def follow_release(recipe: Recipe, store: Store) -> None:
    """Makes the vector store and the lists of all users those of the release in production, after it was changed by
    hand.
    """
    push_current(recipe, store)
    if recipe.lists is None:
        return
    from darec.serving.lists import follow_by_hand
    from darec.serving.releases import Releases

    with Bars("lists") as bars:
        manifest = follow_by_hand(Releases(store.root).serving(), recipe.lists, recipe.rules, bars)
    if manifest:
        console.print(f"lists: {manifest.users:,} users: {recipe.lists.out}", highlight=False, soft_wrap=True)
