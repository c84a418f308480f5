"""`darec promote`: makes a release the current one."""

from darec.serving.releases import Releases
from pipelines.cli.options import RecipeOption, ReleaseArgument, SetOption, WhyOption, open_recipe
from pipelines.cli.push import follow_release
from pipelines.show import console


def promote(
    release: ReleaseArgument,
    why: WhyOption = "by hand",
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Make a release the current one, regardless of the decision of the gate."""
    loaded, store = open_recipe(recipe, overrides)
    promoted = Releases(store.root).promote(release, why=why)
    console.print(f"current: {promoted.id} (before: {promoted.previous})", highlight=False)
    follow_release(loaded, store)
