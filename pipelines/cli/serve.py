"""`darec serve`: an HTTP service over the current release."""

from functools import partial
from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.cli.rules import requested
from pipelines.show import console


def serve(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. There is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    refresh: Annotated[
        float, typer.Option(min=0.05, max=3600, help="Interval between two checks for a new release, in seconds.")
    ] = 5.0,
) -> None:
    """Serve recommendations of the current release over HTTP: /recommend, /similar, /health, /metrics, /docs.

    A newly published release is served once its files are open; until then the old one is.
    """
    import uvicorn

    from pipelines.serving import make_app

    loaded, store = open_recipe(recipe, overrides)
    console.print(f"http://{host}:{port}/docs")
    uvicorn.run(
        make_app(store.root, partial(requested, loaded.rules), refresh),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
    )
