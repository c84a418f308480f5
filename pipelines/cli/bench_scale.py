"""`darec bench scale`: cost by the size of the data."""

from pathlib import Path
from typing import Annotated

import typer

from darec.common.errors import UserError
from pipelines.cli.bench_options import BENCH, SetOption, write_table
from pipelines.show import console


def scale(
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Number of interactions, such as 1M. May be repeated.")
    ] = None,
    until: Annotated[str, typer.Option(help="Last stage to run.")] = "publish",
    text_width: Annotated[
        int, typer.Option(min=0, max=16_384, help="Width of random text vectors; with 0 the model uses no text.")
    ] = 0,
    overrides: SetOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the logs, the stores and the table.")] = BENCH
    / "scale",
) -> None:
    """Run the stages on synthetic logs: CPU seconds and peak memory of each stage, and how they grow with the data."""
    from benchmarks import scale as growth
    from benchmarks.llm_rows import STAGES

    try:
        wanted = [growth.parsed(size) for size in sizes or ["1M", "5M"]]
    except ValueError as error:
        raise UserError(f"{error}", where="--size", hint="write 5M, 200k or 20000") from error

    costs = []
    for interactions in wanted:
        recipe = growth.recipe_for(folder, interactions, text_width, overrides or (), profiles=until in STAGES)
        for cost in growth.measure(recipe, interactions, until, text_width):
            costs.append(cost)
            size = growth.shown(interactions)
            console.print(
                f"{size} {cost.stage}: {cost.cpu_seconds:,.1f} CPU s, {cost.peak_mb:,.0f} MB", highlight=False
            )

    write_table(folder, growth.table(costs))
