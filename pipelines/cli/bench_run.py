"""`darec bench run`: the runs of a grid."""

from typing import TYPE_CHECKING

from darec.artifacts.store import Store
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
from pipelines.show import Bars, console

if TYPE_CHECKING:
    from stages.execute import Result


def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Run the missing entries of a grid. A run that was killed continues from its checkpoint."""
    from benchmarks.runs import run_grid

    loaded, runs = open_grid(recipe, data, overrides, only, seeds)
    place = Store(store)
    with Bars(loaded.name) as bars:
        for number, (done, result) in enumerate(run_grid(runs, place, bars), 1):
            console.print(f"[{number}/{len(runs)}] {done.entry.label}: {_line(result)}", highlight=False)
    write_grid_tables(loaded, runs, store, out, loaded.baseline)


def _line(result: "Result") -> str:
    import polars as pl

    assert result.artifact is not None
    path = result.artifact.path
    metrics = pl.read_parquet(path / "metrics.parquet").filter(part="val", metric="recall@20")["value"]
    value = f"validation Recall@20 {metrics[0]:.4f}" if len(metrics) else "done"
    return f"{value}{' (cached)' if result.cached else ''}  {path.name}"
