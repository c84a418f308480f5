"""graph: the train interactions become a weighted edge list."""

from typing import Any

from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (Input("split", ("train.parquet",)),)


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"graph": recipe.graph}


def _run(context: StageContext) -> Outcome:
    from darec.artifacts.tables import read_table, write_table
    from darec.dataset.graph import edge_list
    from schemas.tables import EDGES, SPLIT_PART

    train = read_table(context.input("split", "train.parquet"), SPLIT_PART)
    edges = edge_list(train.lazy(), context.recipe.graph).collect()
    write_table(edges, context.out / "edges.parquet", EDGES)
    return Outcome(rows=edges.height, report={"edges": edges.height})


STAGE = Stage(
    name="graph",
    version=1,
    outputs=("edges.parquet",),
    inputs=_inputs,
    config=_config,
    run=_run,
)
