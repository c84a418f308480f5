"""embed: computes one text vector per user and per item from profiles, titles and attributes."""

import polars as pl

from darec.artifacts.files import ITEM_PROFILES, ITEMS, TEXT_VECTORS, USER_PROFILES, USERS
from darec.artifacts.formats import Vectors
from darec.text.encoder import Embedding
from darec.text.entities import (
    ITEM_TEXT_VARIABLES,
    USER_TEXT_VARIABLES,
    described_users,
    even_sample,
    items_as_data,
    values,
)
from darec.text.prompts import Prompt
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.reports import EmbedReport
from stages.contract import Outcome, Pending, StageContext


def run(context: StageContext) -> Outcome[EmbedReport]:
    """Encodes every text; vectors of known texts come from the row ledger."""
    users, items = _user_texts(context), _item_texts(context)
    vectors, report = _embedding(context).run(pl.concat([users, items]))

    context.write(TEXT_VECTORS, Vectors(vectors[: len(users)], vectors[len(users) :]))
    samples = (*users.head(2).to_list(), *items.head(3).to_list())
    alike = {side: counts for side, texts in (("users", users), ("items", items)) if (counts := _alike(texts))}
    details = report | {"dimensions": vectors.shape[1], "samples": samples, "alike": alike}
    return Outcome(len(vectors), EmbedReport.model_validate(details))


def _alike(texts: pl.Series) -> str:
    """How many of the texts equal another one, if it is more than half of them."""
    same = len(texts) - texts.n_unique()
    return f"{same:,} of {len(texts):,}" if same > len(texts) / 2 else ""


def pending(context: StageContext) -> Pending:
    """The number of texts that are not in the row ledger, estimated for large tables."""
    embedding, recipe = _embedding(context), context.recipe.embed
    sides = (
        (*even_sample(context.read(ITEM_PROFILES)), item_rows, recipe.item_prompt, ITEM_TEXT_VARIABLES),
        (*even_sample(context.read(USER_PROFILES)), user_rows, recipe.user_prompt, USER_TEXT_VARIABLES),
    )
    if all(total is None for _, total, *_ in sides):
        texts = pl.concat([_user_texts(context), _item_texts(context)])
        return Pending(len(embedding.ledger.missing(embedding.keys(texts))))

    count = 0.0
    for profiles, total, rows, prompt, variables in sides:
        keys = embedding.keys(render_texts(rows(context, profiles), prompt, variables))
        scale = total / profiles.height if total else 1
        count += len(embedding.ledger.missing(keys)) * scale

    return Pending(round(count), about=True)


def check(recipe: Recipe) -> None:
    """Raises UserError for a faulty prompt."""
    _prompt(recipe.embed.item_prompt, ITEM_TEXT_VARIABLES)
    _prompt(recipe.embed.user_prompt, USER_TEXT_VARIABLES)


def _embedding(context: StageContext) -> Embedding:
    return Embedding(context.recipe.embed, context.ledger, context.progress)


def _item_texts(context: StageContext) -> pl.Series:
    return render_texts(item_rows(context), context.recipe.embed.item_prompt, ITEM_TEXT_VARIABLES)


def _user_texts(context: StageContext) -> pl.Series:
    return render_texts(user_rows(context), context.recipe.embed.user_prompt, USER_TEXT_VARIABLES)


def item_rows(context: StageContext, profiles: pl.DataFrame | None = None) -> pl.DataFrame:
    """The variables of each item's text, or of those in `profiles`."""
    profiles = context.read(ITEM_PROFILES) if profiles is None else profiles
    items = context.read_of(ITEMS, c.ITEM, profiles[c.ITEM])
    return items_as_data(profiles, items).with_columns(profiles[c.PROFILE])


def user_rows(context: StageContext, profiles: pl.DataFrame | None = None) -> pl.DataFrame:
    """The variables of each user's text, or of those in `profiles`."""
    profiles = context.read(USER_PROFILES) if profiles is None else profiles
    users = context.read_of(USERS, c.USER, profiles[c.USER])
    return described_users(profiles, users).with_columns(profiles[c.PROFILE])


def render_texts(rows: pl.DataFrame, path: str, variables: tuple[str, ...]) -> pl.Series:
    """The text of each row that is encoded."""
    prompt = _prompt(path, variables)
    return pl.Series("text", [prompt.render("text", row) for row in values(rows, variables)], dtype=pl.String)


def _prompt(path: str, variables: tuple[str, ...]) -> Prompt:
    return Prompt(path, variables, ("text",))
