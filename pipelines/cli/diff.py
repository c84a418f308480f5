"""`darec diff`: what differs between two releases."""

from rich.text import Text

from darec.serving.releases import Releases
from pipelines.cli.options import JsonOption, RecipeOption, ReleaseArgument, SetOption, open_recipe, print_json
from pipelines.show import console
from pipelines.tables import print_table


def diff(
    a: ReleaseArgument,
    b: ReleaseArgument,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two releases: metrics, sizes and configuration."""

    _, store = open_recipe(recipe, overrides)
    found = Releases(store.root).diff(a, b)
    if as_json:
        print_json({"metrics": found.metrics, "sizes": found.sizes, "config": found.config})
        return

    pairs = [(name, *pair) for name, pair in (found.metrics | found.sizes).items()]
    rows = [(name, old, new, _change(old, new)) for name, old, new in pairs]
    print_table("Metrics and sizes", ("metric", a, b, "change"), rows)
    for line in found.config or ["the same configuration"]:
        console.print(Text(line))


def _change(old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return "" if old == new else "only in one"
    return f"{(new - old) / old:+.1%}" if old else f"{new - old:+.4g}"
