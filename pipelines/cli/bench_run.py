"""`darec bench run`: the runs of a grid."""

from typing import TYPE_CHECKING

from pipelines.cli.bench_options import Grid, grid_command, write_grid_tables
from pipelines.show import Bars, console

if TYPE_CHECKING:
    from stages.execute import Result


@grid_command
def run(grid: Grid) -> None:
    """Run the missing entries of a grid. A run that was killed resumes from its checkpoint."""
    from benchmarks.runs import run_grid

    with Bars(grid.recipe.name) as bars:
        for number, (done, result) in enumerate(run_grid(grid.runs, grid.store, bars), 1):
            console.print(f"[{number}/{len(grid.runs)}] {done.entry.label}: {_line(result)}", highlight=False)
    write_grid_tables(grid, grid.recipe.baseline)


def _line(result: "Result") -> str:
    import polars as pl

    from benchmarks.runs import METRICS

    assert result.artifact is not None
    path = result.artifact.path
    metrics = pl.read_parquet(path / METRICS).filter(part="val", metric="recall@20")["value"]
    value = f"validation Recall@20 {metrics[0]:.4f}" if len(metrics) else "done"
    return f"{value}{' (cached)' if result.cached else ''}  {path.name}"
