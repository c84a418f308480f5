"""`darec gc`: removes artifacts that no release needs."""

from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.show import console


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Remove artifacts that no kept release needs (runtime.keep_releases, runtime.keep_artifacts)."""
    from darec.serving.retention import collect

    loaded, store = open_recipe(recipe, overrides)
    done = collect(store, loaded.runtime.keep_releases, loaded.runtime.keep_artifacts, dry_run=dry_run)
    for removal in done.removed:
        console.print(f"{removal.kind:9} {removal.bytes / 2**20:10.2f} MB  {removal.path}", highlight=False)
    verb = "would be freed" if dry_run else "freed"
    console.print(f"{done.bytes / 2**20:.2f} MB {verb}; {done.kept} artifacts stay")
