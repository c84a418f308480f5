"""`darec deploy`: register the deployments with a Prefect server."""

from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, recipe_path
from pipelines.show import console


def deploy(recipe: RecipeOption = None) -> None:
    """Register the deployments of prefect.yaml and the automations with the Prefect server in PREFECT_API_URL."""
    from pipelines.api import answering, configured_url

    if configured_url() is None:
        raise UserError("no Prefect server is configured", where="PREFECT_API_URL", hint="set it, or use `darec ui`")
    from pipelines import deployments

    with answering():
        done = deployments.deploy(recipe_path(recipe))
    for line in done:
        console.print(line)
