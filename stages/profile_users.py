"""profile_users: the LLM writes what each user enjoys, from a sample of its train items and their profiles."""

from typing import TYPE_CHECKING, Any

from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from darec.text.profiling import ProfileTask


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (
        Input("ingest", ("items.parquet", "users.parquet")),
        Input("split", ("train.parquet", "users.parquet", "items.parquet")),
        Input("profile_items", ("profiles.parquet",)),
    )


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"llm": recipe.llm, "profile_users": recipe.profile_users}


def _material(recipe: Recipe) -> dict[str, Any]:
    from darec.text.identity import model_identity, prompt_hash

    return {"prompt": prompt_hash(recipe.profile_users.prompt), "model": model_identity(recipe.llm)}


def _task(context: StageContext) -> "ProfileTask":
    from darec.artifacts.tables import read_table
    from darec.text.entities import USER_VARIABLES, items_as_data, user_text_from_metadata, users_as_data
    from darec.text.profiling import ProfileTask
    from schemas import columns as c
    from schemas import tables

    config = context.recipe.profile_users
    vocabulary = read_table(context.input("split", "items.parquet"), tables.ITEM_VOCABULARY)
    described = items_as_data(vocabulary, read_table(context.input("ingest", "items.parquet"), tables.ITEMS))
    profiles = read_table(context.input("profile_items", "profiles.parquet"), tables.ITEM_PROFILES)
    users = users_as_data(
        read_table(context.input("split", "users.parquet"), tables.USER_VOCABULARY),
        read_table(context.input("ingest", "users.parquet"), tables.USERS),
        described.join(profiles.select(c.ITEM_INDEX, c.PROFILE), on=c.ITEM_INDEX, how="left"),
        read_table(context.input("split", "train.parquet"), tables.SPLIT_PART),
        config.items,
        config.seed,
    )
    return ProfileTask(
        rows=users,
        variables=USER_VARIABLES,
        from_metadata=user_text_from_metadata(),
        llm=context.recipe.llm,
        config=config,
        ledger_root=context.ledger,
    )


def _run(context: StageContext) -> Outcome:
    from darec.artifacts.tables import write_table
    from schemas.tables import USER_PROFILES

    profiles, report = _task(context).run(context.progress)
    write_table(profiles, context.out / "profiles.parquet", USER_PROFILES)
    return Outcome(rows=profiles.height, report=report)


def _pending(context: StageContext) -> int:
    return _task(context).pending()


STAGE = Stage(
    name="profile_users",
    version=1,
    outputs=("profiles.parquet",),
    inputs=_inputs,
    config=_config,
    material=_material,
    run=_run,
    pending=_pending,
)
