"""embed: profiles, with titles and attributes beside them, become one text vector per user and per item."""

import polars as pl

from darec.artifacts.files import ITEM_PROFILES, ITEMS, TEXT_VECTORS, USER_PROFILES, USERS
from darec.artifacts.formats import Vectors
from darec.text.encoder import Embedding
from darec.text.entities import (
    ITEM_TEXT_VARIABLES,
    USER_TEXT_VARIABLES,
    described_users,
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
    details = report | {"dimensions": vectors.shape[1], "samples": samples}
    return Outcome(len(vectors), EmbedReport.model_validate(details))


def pending(context: StageContext) -> Pending:
    """The texts that the row ledger lacks."""
    embedding = _embedding(context)
    texts = pl.concat([_user_texts(context), _item_texts(context)])
    return Pending(len(embedding.ledger.missing(embedding.keys(texts))))


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


def item_rows(context: StageContext) -> pl.DataFrame:
    """The variables of each item's text."""
    profiles = context.read(ITEM_PROFILES)
    return items_as_data(profiles, context.read(ITEMS)).with_columns(profiles[c.PROFILE])


def user_rows(context: StageContext) -> pl.DataFrame:
    """The variables of each user's text."""
    profiles = context.read(USER_PROFILES)
    return described_users(profiles, context.read(USERS)).with_columns(profiles[c.PROFILE])


def render_texts(rows: pl.DataFrame, path: str, variables: tuple[str, ...]) -> pl.Series:
    """The text of each row, which its vector is made of."""
    prompt = _prompt(path, variables)
    return pl.Series("text", [prompt.render("text", row) for row in values(rows, variables)], dtype=pl.String)


def _prompt(path: str, variables: tuple[str, ...]) -> Prompt:
    return Prompt(path, variables, ("text",))
