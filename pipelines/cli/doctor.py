"""`darec doctor`: what is there and what is missing."""

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.show import console


def doctor(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Check Python, libraries, GPU, disk, models and Prefect, and say how to fix what is missing."""
    from pipelines.doctor import examine, findings_table

    findings = examine(*open_recipe(recipe, overrides))
    console.print(findings_table(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(1)
