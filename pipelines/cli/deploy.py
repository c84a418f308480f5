"""`darec deploy`: register the deployments with a Prefect server."""

from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, recipe_path
from pipelines.show import console


def deploy(recipe: RecipeOption = None) -> None:
    """Register the deployments of prefect.yaml and the automations with the Prefect server in PREFECT_API_URL."""
    from pipelines.api import configured_url

    if configured_url() is None:
        raise UserError("no Prefect server is configured", where="PREFECT_API_URL", hint="set it, or use `darec ui`")
    from pipelines import deployments

    for line in deployments.deploy(recipe_path(recipe)):
        console.print(line)
