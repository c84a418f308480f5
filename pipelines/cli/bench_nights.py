"""`darec bench nights`: simulated nights."""

from pathlib import Path
from typing import Annotated

import typer

from darec.common.recipes import load_recipe
from darec.dataset.sources import movielens_files
from pipelines.cli.bench_options import BENCH, LIGHTGCN_RECIPE, SetOption, write_table
from pipelines.show import Bars, console


def nights(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run on MovieLens-100K.")] = LIGHTGCN_RECIPE,
    nights: Annotated[int, typer.Option(min=0, help="Number of nights after the first.")] = 30,
    growth: Annotated[
        float, typer.Option(min=0.0001, help="New interactions per night, as a fraction of the known ones.")
    ] = 0.01,
    scratch_every: Annotated[int, typer.Option(min=1, help="Also train from scratch every N nights.")] = 1,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for store, log, table and plot.")] = BENCH / "nights",
) -> None:
    """Run the pipeline on growing data for several nights: rows profiled, tokens, minutes and Recall@20 of each."""
    from benchmarks.nightly_simulation import simulate
    from benchmarks.nights import plot, table

    loaded = load_recipe(recipe, overrides or ())

    done = []
    with Bars("nights") as bars:
        for night in simulate(loaded, movielens_files, out, nights, growth, scratch_every, bars):
            done.append(night)
            console.print(f"night {night.number}: {night.new_users} users, {night.new_items} items profiled")

    write_table(out, table(done))
    plot(done, out / "nights.svg")
