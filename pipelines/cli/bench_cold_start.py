"""`darec bench cold-start`: vectors of items without interactions."""

from dataclasses import replace
from typing import Annotated

import typer

from darec.artifacts.store import Store
from pipelines.cli.bench_options import (
    BENCH,
    STORE,
    DataOption,
    OnlyOption,
    OutOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    open_grid,
    write_table,
)
from pipelines.show import Bars


def cold_start(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Fraction of the items that is removed from train.")
    ] = 0.1,
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Remove items from train and evaluate vectors that are predicted from their text."""
    from benchmarks import cold
    from benchmarks.runs import run_grid

    loaded, runs = open_grid(recipe, data, overrides, only, "")
    held = {run.data.name: cold.hold_out(run.data, share, seed=0) for run in runs}
    with Bars(loaded.name) as bars:
        held_runs = [replace(run, data=held[run.data.name]) for run in runs]
        done = [(run, result.artifact) for run, result in run_grid(held_runs, Store(store), bars) if result.artifact]
    full = {run.data.name: run.data for run in runs}
    write_table(out or BENCH / loaded.name, f"{cold.table(done, full)}\n{cold.places_table(done, full)}")
