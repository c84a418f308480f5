"""profile_items: the LLM writes a profile of each item."""

from darec.artifacts.files import ITEM_FALLBACKS, ITEM_PROFILES, ITEM_VOCABULARY, ITEMS
from darec.text.entities import ITEM_VARIABLES, even_sample, item_text_from_metadata, items_as_data, known_by_id
from darec.text.profiling import ProfileTask, fallbacks_in
from darec.text.prompts import chat_prompt
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.reports import ProfileReport
from stages.contract import Outcome, Pending, StageContext


def run(context: StageContext) -> Outcome[ProfileReport]:
    """Profiles every item of the vocabulary; only prompts without an answer in the row ledger are sent to the LLM."""
    task = profile_task(context)
    profiles, report = task.run(context.progress)
    context.write(ITEM_PROFILES, profiles)
    context.write(ITEM_FALLBACKS, fallbacks_in(profiles))
    return Outcome(profiles.height, ProfileReport.model_validate(report | {"only_ids": known_by_id(task.rows)}))


def pending(context: StageContext) -> Pending:
    """The number of prompts that a run would send to the LLM, estimated for large tables."""
    return Pending(*profile_task(context, sampled=True).forecast())


def check(recipe: Recipe) -> None:
    """Raises UserError for a faulty prompt."""
    chat_prompt(recipe.profile_items.prompt, ITEM_VARIABLES)


def profile_task(context: StageContext, sampled: bool = False) -> ProfileTask:
    """The items, their prompt and the ledger of their profiles. If `sampled`, a large table is replaced by a sample."""
    vocabulary, total = context.read(ITEM_VOCABULARY), None
    if sampled:
        vocabulary, total = even_sample(vocabulary)
    items = context.read(ITEMS) if total is None else context.read_of(ITEMS, c.ITEM, vocabulary[c.ITEM])
    return ProfileTask(
        rows=items_as_data(vocabulary, items),
        sample_of=total,
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=context.recipe.llm,
        config=context.recipe.profile_items,
        ledger_root=context.ledger,
    )
