"""`darec bench batch-growth`: recall and time of larger batches."""

from pathlib import Path
from typing import Annotated

import typer

from darec.common.errors import UserError
from pipelines.cli.bench_options import BENCH, write_table
from pipelines.show import console


def batch_growth(
    size: Annotated[str, typer.Option("--pairs", help="Approximate number of train pairs, such as 1M.")] = "1M",
    factors: Annotated[
        list[int] | None,
        typer.Option(
            "--factor",
            min=1,
            help="Factor for the default batch size, compared with the smallest one. May be repeated.",
            show_default="1, 8, 32",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs of each run.")] = 60,
    exponent: Annotated[
        float, typer.Option(min=0, help="The learning rate is multiplied by factor ** exponent.")
    ] = 0.5,
    width: Annotated[int, typer.Option("--dim", min=1, help="Number of columns of the vectors.")] = 32,
    folder: Annotated[Path, typer.Option("--out", help="Folder of results, checkpoints and the table.")] = BENCH
    / "batch-growth",
) -> None:
    """Train on synthetic logs with batches of several sizes: recall and CPU seconds of an epoch."""
    from benchmarks.batch_growth import compare, table
    from benchmarks.scale import parsed

    try:
        pairs = parsed(size)
    except ValueError as error:
        raise UserError(f"{error}", where="--pairs", hint="give a number such as 200k or 5M") from error

    found = {}
    for factor, outcome in compare(folder, pairs, factors or [1, 8, 32], epochs, exponent, width):
        found[factor] = outcome
        console.print(f"x {factor}: Recall@20 {outcome.recall:.4f}, {outcome.epochs} epochs", highlight=False)

    write_table(folder, table(found))
