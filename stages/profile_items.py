"""profile_items: the LLM writes of each item what it is like and who enjoys it."""

from typing import TYPE_CHECKING, Any

from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from darec.text.profiling import ProfileTask


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (Input("ingest", ("items.parquet",)), Input("split", ("items.parquet",)))


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"llm": recipe.llm, "profile_items": recipe.profile_items}


def _material(recipe: Recipe) -> dict[str, Any]:
    from darec.text.identity import model_identity, prompt_hash

    return {"prompt": prompt_hash(recipe.profile_items.prompt), "model": model_identity(recipe.llm)}


def _task(context: StageContext) -> "ProfileTask":
    from darec.artifacts.tables import read_table
    from darec.text.entities import ITEM_VARIABLES, item_text_from_metadata, items_as_data
    from darec.text.profiling import ProfileTask
    from schemas.tables import ITEM_VOCABULARY, ITEMS

    vocabulary = read_table(context.input("split", "items.parquet"), ITEM_VOCABULARY)
    items = read_table(context.input("ingest", "items.parquet"), ITEMS)
    return ProfileTask(
        rows=items_as_data(vocabulary, items),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=context.recipe.llm,
        config=context.recipe.profile_items,
        ledger_root=context.ledger,
    )


def _run(context: StageContext) -> Outcome:
    from darec.artifacts.tables import write_table
    from schemas.tables import ITEM_PROFILES

    profiles, report = _task(context).run(context.progress)
    write_table(profiles, context.out / "profiles.parquet", ITEM_PROFILES)
    return Outcome(rows=profiles.height, report=report)


def _pending(context: StageContext) -> int:
    return _task(context).pending()


STAGE = Stage(
    name="profile_items",
    version=1,
    outputs=("profiles.parquet",),
    inputs=_inputs,
    config=_config,
    material=_material,
    run=_run,
    pending=_pending,
)
