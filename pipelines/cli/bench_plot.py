"""`darec bench plot`: plots of a grid."""

from pathlib import Path
from typing import TYPE_CHECKING

from darec.artifacts.store import Store
from pipelines.cli.bench_options import (
    BENCH,
    STORE,
    DataOption,
    OnlyOption,
    OutOption,
    RecipeArgument,
    SeedsOption,
    SetOption,
    StoreOption,
    open_grid,
)
from pipelines.show import console

if TYPE_CHECKING:
    from benchmarks.runs import Run


def plot(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Plot the finished runs: accuracy, sparsity slices, sweeps, and the parts of DaRec before and after training."""
    from benchmarks import plots, results

    loaded, runs = open_grid(recipe, data, overrides, only, seeds)
    place, folder = Store(store), out or BENCH / loaded.name
    written = plots.plot_all(loaded, results.collect(runs, place), folder)
    for path in [*written, *_plot_parts(runs, place, folder)]:
        console.print(path)


def _plot_parts(runs: list["Run"], store: "Store", folder: Path) -> list[Path]:
    """Plots DaRec's parts for the first finished run of each data set that has them and is not part of a sweep."""
    from benchmarks import plots
    from benchmarks.parts import before_and_after
    from benchmarks.runs import find

    written = {}
    for run in runs:
        kinds = {objective.name for objective in run.entry.config.alignment}
        if run.data.name in written or "darec" not in kinds or (artifact := find(run, store)) is None:
            continue
        figure = plots.parts(*before_and_after(run, artifact), f"{run.entry.label}: shared and specific parts")
        written[run.data.name] = plots.save(figure, folder / f"{run.data.name}-parts.png")
    return list(written.values())
