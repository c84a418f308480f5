"""`darec bench cold-start`: vectors of items without interactions."""

from dataclasses import replace
from typing import Annotated

import typer

from pipelines.cli.bench_options import Grid, grid_command, write_table
from pipelines.show import Bars


@grid_command
def cold_start(
    grid: Grid,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Fraction of the items that is removed from train.")
    ] = 0.1,
    growth: Annotated[
        list[float] | None,
        typer.Option(
            min=0, max=2, help="A value to choose train.cold_growth from, on items that are removed twice. Repeat it."
        ),
    ] = None,
) -> None:
    """Remove items from train and evaluate vectors that are predicted from their text."""
    from benchmarks import cold, cold_growth
    from benchmarks.runs import run_grid

    full = {run.data.name: run.data for run in grid.runs}
    held = {name: cold.hold_out(data, share, seed=0) for name, data in full.items()}
    held_runs = [replace(run, data=held[run.data.name]) for run in grid.runs]
    with Bars(grid.recipe.name) as bars:
        done = [(run, result.artifact) for run, result in run_grid(held_runs, grid.store, bars) if result.artifact]

        text = ""
        if growth:
            done, text = cold_growth.choose(done, held, full, growth, share, grid.store, bars)

    write_table(grid.folder, f"{text}{cold.tables(done, full)}")
