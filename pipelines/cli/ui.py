"""`darec ui`: server, worker, deployments and reports on one machine."""

from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, open_recipe, recipe_path
from pipelines.show import console


def ui(
    recipe: RecipeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65534, help="Port to listen on; reports use the next port.")] = 4200,
) -> None:
    """Start a Prefect server with its UI, a worker, the deployments and the reports. Ctrl-C stops them."""
    from pipelines.service import serve

    _, store = open_recipe(recipe, None)

    def announce(url: str, deployed: list[str]) -> None:
        console.print("\n".join(deployed))
        console.print(f"{url}  (Ctrl-C stops everything)", style="bold")

    serve(host, port, recipe_path(recipe), store.make(), announce)
