"""`darec bench table`: tables of a grid."""

from typing import Annotated

import typer

from pipelines.cli.bench_options import (
    STORE,
    DataOption,
    OnlyOption,
    OutOption,
    RecipeArgument,
    SeedsOption,
    SetOption,
    StoreOption,
    open_grid,
    write_grid_tables,
)
from pipelines.show import print_plain


def table(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    against: Annotated[
        str | None, typer.Option(help="Alignment to compare with.", show_default="the baseline of the recipe")
    ] = None,
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Write Markdown tables of the finished runs, with standard deviations and paired tests."""
    loaded, runs = open_grid(recipe, data, overrides, only, seeds)
    print_plain(write_grid_tables(loaded, runs, store, out, against or loaded.baseline))
