"""`darec bench table`: tables of a grid."""

from typing import Annotated

import typer

from darec.common.errors import UserError
from pipelines.cli.bench_options import Grid, grid_command, write_grid_tables
from pipelines.show import print_plain


@grid_command
def table(
    grid: Grid,
    against: Annotated[
        str | None, typer.Option(help="Alignment to compare with.", show_default="the baseline of the recipe")
    ] = None,
) -> None:
    """Write Markdown tables of the finished runs, with standard deviations and paired tests."""
    from benchmarks.grid import expand

    known = {entry.alignment: None for entry in expand(grid.recipe)}
    if against and against not in known:
        raise UserError(f"no alignment is named {against}", where="--against", hint=f"use one of {', '.join(known)}")
    print_plain(write_grid_tables(grid, against or grid.recipe.baseline))
