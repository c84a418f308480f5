"""`darec promote`: a chosen release becomes the current one."""

from typing import Annotated

import typer

from pipelines.commands.options import RecipeOption, SetOption, WhyOption, open_recipe
from pipelines.show import console


def promote(
    release: Annotated[str, typer.Argument(help="The release's id, or enough of its beginning or end.")],
    why: WhyOption = "by hand",
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Make a release the current one, whatever the gate decided."""
    from darec.serving.releases import Releases

    _, store = open_recipe(recipe, overrides)
    promoted = Releases(store.root).promote(release, why=why)
    console.print(f"current: {promoted.id} (before: {promoted.previous})", highlight=False)
