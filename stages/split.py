"""split: interactions become train, val and test, and ids become numbers.

It reads nothing but the interactions: an edited title makes no new split.
"""

from typing import Any

from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (Input("ingest", ("interactions.parquet",)),)


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"split": recipe.split}


def _run(context: StageContext) -> Outcome:
    from darec.artifacts.tables import read_table, write_table
    from darec.dataset.split import split_interactions
    from schemas.tables import INTERACTIONS, ITEM_VOCABULARY, SPLIT_PART, USER_VOCABULARY

    interactions = read_table(context.input("ingest", "interactions.parquet"), INTERACTIONS)
    result = split_interactions(interactions, context.recipe.split)
    for part, table in result.parts.items():
        write_table(table, context.out / f"{part}.parquet", SPLIT_PART)
    write_table(result.users, context.out / "users.parquet", USER_VOCABULARY)
    write_table(result.items, context.out / "items.parquet", ITEM_VOCABULARY)
    return Outcome(rows=result.report["rows_out"], report=result.report)


STAGE = Stage(
    name="split",
    version=1,
    outputs=("train.parquet", "val.parquet", "test.parquet", "users.parquet", "items.parquet"),
    inputs=_inputs,
    config=_config,
    run=_run,
)
