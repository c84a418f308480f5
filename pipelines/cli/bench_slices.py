"""`darec bench slices`: the finished runs of a grid by groups of items."""

from darec.artifacts.store import Store
from darec.common.errors import UserError
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
    write_table,
)


def slices(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Compare the finished runs by the popularity of items, and by diversity, novelty and coverage of their lists."""
    from benchmarks import slices as groups
    from benchmarks.runs import find

    loaded, runs = open_grid(recipe, data, overrides, only, seeds)
    place = Store(store)
    done = [(run, artifact) for run in runs if (artifact := find(run, place)) is not None]
    if not done:
        raise UserError("no run of this benchmark is finished", where=str(store), hint="run `darec bench run` first")
    write_table(out or BENCH / loaded.name, groups.tables(done), "slices.md")
