"""ingest: the raw files become clean tables of interactions, items and users."""

from typing import Any

from darec.artifacts.keys import file_sha256
from darec.dataset.sources import source_files
from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return ()


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data}


def _material(recipe: Recipe) -> dict[str, Any]:
    return {"sources": {role: file_sha256(path) for role, path in source_files(recipe.data).items()}}


def _run(context: StageContext) -> Outcome:
    from darec.artifacts.tables import write_table
    from darec.dataset.clean import clean
    from darec.dataset.readers import read_source
    from schemas.tables import INTERACTIONS, ITEMS, USERS

    config = context.recipe.data
    data = clean(read_source(config), config)
    write_table(data.interactions, context.out / "interactions.parquet", INTERACTIONS)
    write_table(data.items, context.out / "items.parquet", ITEMS)
    write_table(data.users, context.out / "users.parquet", USERS)
    return Outcome(rows=data.interactions.height, report=data.report)


STAGE = Stage(
    name="ingest",
    version=1,
    outputs=("interactions.parquet", "items.parquet", "users.parquet"),
    inputs=_inputs,
    config=_config,
    material=_material,
    run=_run,
)
