"""`darec bench fold-in`: vectors from histories."""

from typing import Annotated

import typer

from darec.common.files import check_writable
from pipelines.cli.bench_options import (
    BENCH,
    TABLE,
    DataOption,
    OnlyOption,
    OutOption,
    RecipeArgument,
    SetOption,
    open_grid,
    write_table,
)
from pipelines.show import console


def fold_in(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10, help="Number of rounds; each leaves out another tenth of the users.")
    ] = 10,
    out: OutOption = None,
) -> None:
    """Remove users from train and evaluate vectors that are folded in from their histories."""
    from benchmarks.fold_in import measure, table

    loaded, runs = open_grid(recipe, data, overrides, only, "")
    folder = out or BENCH / loaded.name
    check_writable(folder / TABLE)
    tables = []
    for run in runs:
        done = []
        for scores in measure(run, rounds):
            done.append(scores)
            console.print(f"{run.entry.label}: {len(done)}/{rounds}", highlight=False)
        tables.append(table(run.data.name, done))

    write_table(folder, "\n".join(tables))
