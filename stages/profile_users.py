"""profile_users: the LLM writes a profile of each user from a sample of the train items and their profiles."""

import polars as pl

from darec.artifacts.files import (
    ITEM_PROFILES,
    ITEM_VOCABULARY,
    ITEMS,
    TRAIN_DISLIKES,
    TRAIN_PART,
    USER_FALLBACKS,
    USER_PROFILES,
    USER_VOCABULARY,
    USERS,
)
from darec.text.entities import USER_VARIABLES, even_sample, titles_as_data, user_text_from_metadata, users_as_data
from darec.text.histories import choose_pairs
from darec.text.profiling import ProfileTask, fallbacks_in
from darec.text.prompts import chat_prompt
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.reports import ProfileReport
from stages.contract import Outcome, Pending, StageContext


def run(context: StageContext) -> Outcome[ProfileReport]:
    """Profiles every user of the vocabulary; only prompts without an answer in the row ledger are sent to the LLM."""
    profiles, report = profile_task(context).run(context.progress)
    context.write(USER_PROFILES, profiles)
    context.write(USER_FALLBACKS, fallbacks_in(profiles))
    return Outcome(profiles.height, ProfileReport.model_validate(report))


def pending(context: StageContext) -> Pending:
    """The number of prompts that a run would send to the LLM, estimated for large tables."""
    return Pending(*profile_task(context, sampled=True).forecast())


def check(recipe: Recipe) -> None:
    """Raises UserError for a faulty prompt."""
    chat_prompt(recipe.profile_users.prompt, USER_VARIABLES)


def profile_task(context: StageContext, sampled: bool = False) -> ProfileTask:
    """The users, their prompt and the ledger of their profiles. If `sampled`, a large table is replaced by a sample."""
    config = context.recipe.profile_users
    vocabulary, total = context.read(USER_VOCABULARY), None
    if sampled:
        vocabulary, total = even_sample(vocabulary)
    users = context.read(USERS) if total is None else context.read_of(USERS, c.USER, vocabulary[c.USER])

    # Texts are joined only to the rows that are shown, not to every interaction.
    catalogue = context.read(ITEM_VOCABULARY)
    shown = choose_pairs(context.scan(TRAIN_PART), vocabulary, catalogue, config.items, config.seed)
    disliked = None
    if context.has(TRAIN_DISLIKES):
        disliked = choose_pairs(context.scan(TRAIN_DISLIKES), vocabulary, catalogue, config.items, config.seed)
    numbers = pl.concat([part[c.ITEM_INDEX] for part in (shown, disliked) if part is not None]).unique()
    wanted = catalogue.filter(pl.col(c.ITEM_INDEX).is_in(numbers.implode()))
    profiles = context.read_of(ITEM_PROFILES, c.ITEM_INDEX, wanted[c.ITEM_INDEX], c.PROFILE)
    items = titles_as_data(wanted, context.read_of(ITEMS, c.ITEM, wanted[c.ITEM], c.TITLE))
    described = items.join(profiles, on=c.ITEM_INDEX, how="left", maintain_order="left")
    del profiles, items
    rows = users_as_data(vocabulary, users, described, shown, disliked)

    return ProfileTask(
        rows=rows,
        sample_of=total,
        variables=USER_VARIABLES,
        from_metadata=user_text_from_metadata(),
        llm=context.recipe.llm,
        config=config,
        ledger_root=context.ledger,
    )
