"""`darec bench table`: tables of a grid."""

from typing import Annotated

import typer

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
    print_plain(write_grid_tables(grid, against or grid.recipe.baseline))
