"""`darec serve`: an HTTP service over the current release."""

from functools import partial
from typing import Annotated

import typer

from pipelines.cli.options import RecipeOption, SetOption, open_recipe
from pipelines.cli.rules import requested
from pipelines.ports import require_free
from pipelines.show import console


def serve(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Requests are not authenticated.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    refresh: Annotated[
        float, typer.Option(min=0.05, max=3600, help="Interval between two checks for a new release, in seconds.")
    ] = 5.0,
) -> None:
    """Serve recommendations of the current release over HTTP: /recommend, /similar, /health, /metrics, /docs.

    The previous release answers requests until a newly published one is loaded.
    """
    import uvicorn

    from pipelines.serving import make_app

    loaded, store = open_recipe(recipe, overrides)
    require_free(host, port, "stop the process that listens there, or choose another --port")
    console.print(f"http://{host}:{port}/docs")
    uvicorn.run(
        make_app(store.root, partial(requested, loaded.rules), refresh, partial(console.print, highlight=False)),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
    )
