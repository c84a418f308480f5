"""`darec bench serve`: the load that a service takes."""

from typing import Annotated

import typer

from pipelines.cli.options import CountOption, RecipeOption, open_recipe
from pipelines.cli.serving import current_bundle
from pipelines.show import print_plain


def serve(
    url: Annotated[str, typer.Option(help="Address of a running `darec serve`.")] = "http://127.0.0.1:8080",
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of the measurement.")] = 10.0,
    clients: Annotated[int, typer.Option(min=1, help="Number of concurrent clients.")] = 4,
    k: CountOption = 10,
    recipe: RecipeOption = None,
) -> None:
    """Measure requests per second and latencies of a running `darec serve`."""
    from benchmarks.load import load

    _, store = open_recipe(recipe, None)
    users = current_bundle(store.root).user_ids().to_list()
    for name, value in load(url, users, seconds, clients, k).items():
        print_plain(f"{name}: {value:.4g}")
