"""`darec bench dislikes`: the effect of dislikes."""

from pathlib import Path
from typing import Annotated

import typer

from darec.common.files import check_writable
from darec.common.recipes import load_recipe
from pipelines.cli.bench_options import BENCH, LIGHTGCN_RECIPE, STORE, TABLE, SetOption, StoreOption, write_table
from pipelines.show import console


def dislikes(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run with dislikes.")] = LIGHTGCN_RECIPE,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    overrides: SetOption = None,
    store: StoreOption = STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table.")] = BENCH / "dislikes",
) -> None:
    """Compare ways to use dislikes in training and in lists, by later likes and dislikes."""
    from benchmarks.dislikes import measure, table

    check_writable(out / TABLE)
    loaded = load_recipe(recipe, [*(overrides or ()), f"runtime.store={store}"])
    found = {}
    for name, each in measure(loaded, range(seeds)):
        found[name] = each
        console.print(f"{name}: Recall@20 {each.plain.means()['recall@20']:.4f}", highlight=False)
    write_table(out, table(found))
