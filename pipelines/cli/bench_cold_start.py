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
) -> None:
    """Remove items from train and evaluate vectors that are predicted from their text."""
    from benchmarks import cold
    from benchmarks.runs import run_grid

    held = {run.data.name: cold.hold_out(run.data, share, seed=0) for run in grid.runs}
    with Bars(grid.recipe.name) as bars:
        held_runs = [replace(run, data=held[run.data.name]) for run in grid.runs]
        done = [(run, result.artifact) for run, result in run_grid(held_runs, grid.store, bars) if result.artifact]

    full = {run.data.name: run.data for run in grid.runs}
    write_table(grid.folder, f"{cold.table(done, full)}\n{cold.places_table(done, full)}")
