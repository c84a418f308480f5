"""`darec bench plot`: plots of a grid."""

from pathlib import Path
from typing import TYPE_CHECKING

from darec.artifacts.store import Store
from darec.common.charts import save
from pipelines.cli.bench_options import Grid, grid_command
from pipelines.show import console

if TYPE_CHECKING:
    from benchmarks.runs import Run


@grid_command
def plot(grid: Grid) -> None:
    """Plot the finished runs: accuracy, sparsity slices, sweeps, and the parts of DaRec before and after training."""
    from benchmarks import plots, results

    written = plots.plot_all(grid.recipe, results.collect(grid.runs, grid.store), grid.folder)
    for path in [*written, *_plot_parts(grid.runs, grid.store, grid.folder)]:
        console.print(path)


def _plot_parts(runs: list["Run"], store: Store, folder: Path) -> list[Path]:
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
        written[run.data.name] = save(figure, folder / f"{run.data.name}-parts.svg")

    return list(written.values())
