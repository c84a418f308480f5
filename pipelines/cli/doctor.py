"""`darec doctor`: checks the environment."""

import typer

from pipelines.cli.options import RecipeOption, SetOption, recipe_path
from pipelines.tables import print_table


def doctor(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Check Python, libraries, GPU, disk, models, Prefect and the store, and say how to fix what is wrong."""
    from darec.common.recipes import load_recipe
    from pipelines.doctor import examine

    findings = examine(load_recipe(recipe_path(recipe), overrides or ()))
    rows = [(each.what, each.level, each.detail + (each.hint and f" -> {each.hint}")) for each in findings]
    print_table("Doctor", ("what", "state", "found"), rows, text="found")
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(1)
