"""`darec bench refit`: the effect of training the released model on all interactions."""

from pathlib import Path
from typing import Annotated

import typer

from darec.common.files import check_writable
from darec.common.recipes import load_recipe
from pipelines.cli.bench_options import BENCH, LIGHTGCN_RECIPE, STORE, TABLE, SetOption, StoreOption, write_table
from pipelines.show import console


def refit(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run, with timestamps.")] = LIGHTGCN_RECIPE,
    cuts: Annotated[int, typer.Option(min=1, help="Number of points in time at which the log is cut.")] = 12,
    first: Annotated[float, typer.Option(min=0.05, max=0.99, help="Share of the log before the first cut.")] = 0.35,
    days: Annotated[float, typer.Option(min=0.01, help="Number of days after a cut that are predicted.")] = 10,
    overrides: SetOption = None,
    store: StoreOption = STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table.")] = BENCH / "refit",
) -> None:
    """Compare models trained on train and on all interactions, by the interactions of the following days."""
    from benchmarks.refit import measure, table

    check_writable(out / TABLE)
    loaded = load_recipe(recipe, [*(overrides or ()), f"runtime.store={store}"])
    shares = [first + (0.95 - first) * number / max(cuts - 1, 1) for number in range(cuts)]
    done = []
    for cut in measure(loaded, shares, days):
        done.append(cut)
        console.print(f"[{len(done)}/{cuts}] {cut.known:,} interactions before, {len(cut.users)} users after")

    write_table(out, table(done))
