"""`darec rollback`: returns to the previous release."""

from darec.serving.releases import Releases
from pipelines.cli.options import RecipeOption, SetOption, WhyOption, open_recipe
from pipelines.cli.push import follow_release
from pipelines.show import console


def rollback(why: WhyOption = "by hand", recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Return to the previous release. The release that it replaces is not published again automatically."""
    loaded, store = open_recipe(recipe, overrides)
    book = Releases(store.root)
    left = book.current()
    release = book.rollback(why=why)
    console.print(f"current: {release.id} (rolled back: {left.id if left else None})", highlight=False)
    follow_release(loaded, store)
