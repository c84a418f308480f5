"""embed: the profiles, with titles and attributes beside them, become one text vector a user and an item."""

from typing import TYPE_CHECKING, Any

from schemas import columns as c
from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    import polars as pl

    from darec.text.encoder import Embedding

_PROFILES = ("profiles.parquet",)


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (
        Input("ingest", ("items.parquet", "users.parquet")),
        Input("profile_items", _PROFILES),
        Input("profile_users", _PROFILES),
    )


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"embed": recipe.embed}


def _material(recipe: Recipe) -> dict[str, Any]:
    from darec.text.identity import prompt_hash
    from darec.text.models import identity

    prompts = {
        "item_prompt": prompt_hash(recipe.embed.item_prompt),
        "user_prompt": prompt_hash(recipe.embed.user_prompt),
    }
    return prompts | {"model": identity(recipe.embed.model, recipe.embed.revision)}


def _item_texts(context: StageContext) -> "pl.Series":
    from darec.artifacts.tables import read_table
    from darec.text.entities import ITEM_TEXT_VARIABLES, items_as_data
    from schemas.tables import ITEM_PROFILES, ITEMS

    profiles = read_table(context.input("profile_items", "profiles.parquet"), ITEM_PROFILES)
    described = items_as_data(profiles, read_table(context.input("ingest", "items.parquet"), ITEMS))
    rows = described.with_columns(profiles[c.PROFILE])
    return _texts(rows, context.recipe.embed.item_prompt, ITEM_TEXT_VARIABLES)


def _user_texts(context: StageContext) -> "pl.Series":
    from darec.artifacts.tables import read_table
    from darec.text.entities import USER_TEXT_VARIABLES, described_users
    from schemas.tables import USER_PROFILES, USERS

    profiles = read_table(context.input("profile_users", "profiles.parquet"), USER_PROFILES)
    described = described_users(profiles, read_table(context.input("ingest", "users.parquet"), USERS))
    rows = described.with_columns(profiles[c.PROFILE])
    return _texts(rows, context.recipe.embed.user_prompt, USER_TEXT_VARIABLES)


def _texts(rows: "pl.DataFrame", path: str, variables: tuple[str, ...]) -> "pl.Series":
    import polars as pl

    from darec.text.entities import values
    from darec.text.prompts import Prompt

    prompt = Prompt(path, variables, ("text",))
    return pl.Series("text", [prompt.render("text", row) for row in values(rows, variables)], dtype=pl.String)


def _embedding(context: StageContext) -> "Embedding":
    from darec.text.encoder import Embedding

    return Embedding(context.recipe.embed, context.ledger, context.progress)


def _run(context: StageContext) -> Outcome:
    import polars as pl
    from safetensors.numpy import save_file

    users, items = _user_texts(context), _item_texts(context)
    vectors, report = _embedding(context).run(pl.concat([users, items]))
    sides = {"user": vectors[: len(users)].copy(), "item": vectors[len(users) :].copy()}
    save_file(sides, context.out / "vectors.safetensors")
    samples = {"samples": [*users.head(2).to_list(), *items.head(3).to_list()]}
    return Outcome(rows=len(vectors), report=report | {"dimensions": vectors.shape[1]} | samples)


def _pending(context: StageContext) -> int:
    import polars as pl

    embedding = _embedding(context)
    texts = pl.concat([_user_texts(context), _item_texts(context)])
    return len(embedding.ledger.missing(embedding.keys(texts)))


STAGE = Stage(
    name="embed",
    version=1,
    outputs=("vectors.safetensors",),
    inputs=_inputs,
    config=_config,
    material=_material,
    run=_run,
    pending=_pending,
)
