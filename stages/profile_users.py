"""profile_users: the LLM writes what each user enjoys, from a sample of the train items and their profiles."""

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
from darec.text.entities import USER_VARIABLES, items_as_data, user_text_from_metadata, users_as_data
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
    """The prompts that a run would send to the LLM."""
    return Pending(*profile_task(context).forecast())


def check(recipe: Recipe) -> None:
    """Raises UserError for a faulty prompt."""
    chat_prompt(recipe.profile_users.prompt, USER_VARIABLES)


def profile_task(context: StageContext) -> ProfileTask:
    """The users, their prompt, and the ledger of their profiles."""
    config = context.recipe.profile_users
    vocabulary, catalogue = context.read(USER_VOCABULARY), context.read(ITEM_VOCABULARY)
    # Texts are joined to the few rows that are shown, not to every interaction.
    shown = choose_pairs(context.scan(TRAIN_PART), vocabulary, catalogue, config.items, config.seed)
    disliked = None
    if context.has(TRAIN_DISLIKES):
        disliked = choose_pairs(context.read(TRAIN_DISLIKES), vocabulary, catalogue, config.items, config.seed)
    numbers = shown[c.ITEM_INDEX] if disliked is None else pl.concat([shown[c.ITEM_INDEX], disliked[c.ITEM_INDEX]])
    wanted = catalogue.filter(pl.col(c.ITEM_INDEX).is_in(numbers.unique().implode()))
    profiles = context.read(ITEM_PROFILES).select(c.ITEM_INDEX, c.PROFILE)
    described = items_as_data(wanted, context.read(ITEMS)).join(profiles, on=c.ITEM_INDEX, how="left")
    users = users_as_data(vocabulary, context.read(USERS), described, shown, disliked)

    return ProfileTask(
        rows=users,
        variables=USER_VARIABLES,
        from_metadata=user_text_from_metadata(),
        llm=context.recipe.llm,
        config=config,
        ledger_root=context.ledger,
    )
