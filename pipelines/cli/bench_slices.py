"""`darec bench slices`: the finished runs of a grid by groups of items."""

from darec.common.errors import UserError
from pipelines.cli.bench_options import Grid, grid_command, write_table


@grid_command
def slices(grid: Grid) -> None:
    """Compare the finished runs by popularity and age of items, and their lists by diversity and popularity bias."""
    from benchmarks import slices as groups
    from benchmarks.runs import find

    done = [(run, artifact) for run in grid.runs if (artifact := find(run, grid.store)) is not None]
    if not done:
        hint = "run `darec bench run` first"
        raise UserError("no run of this benchmark is finished", where=str(grid.store.root), hint=hint)
    write_table(grid.folder, groups.tables(done), "slices.md")
