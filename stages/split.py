"""split: divides the interactions into train, val and test, and converts ids to numbers."""

from darec.artifacts.files import (
    ALL_DISLIKES,
    DISLIKES,
    INTERACTIONS,
    ITEM_VOCABULARY,
    ITEMS,
    TEST_PART,
    TRAIN_DISLIKES,
    TRAIN_PART,
    USER_VOCABULARY,
    VAL_PART,
)
from darec.dataset.dislikes import known_in_train, numbered
from darec.dataset.split import split_interactions
from schemas import columns as c
from schemas.reports import SplitReport
from schemas.tables import DISLIKED_PAIRS
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[SplitReport]:
    """Divides the interactions."""
    catalogue = context.scan(ITEMS).select(c.ITEM).collect()[c.ITEM] if context.has(ITEMS) else None
    result = split_interactions(context.scan(INTERACTIONS), context.recipe.split, catalogue)

    context.write(TRAIN_PART, result.parts["train"])
    context.write(VAL_PART, result.parts["val"])
    context.write(TEST_PART, result.parts["test"])
    context.write(USER_VOCABULARY, result.users)
    context.write(ITEM_VOCABULARY, result.items)

    if context.has(DISLIKES):
        dislikes = numbered(context.read(DISLIKES), result)
        context.write(ALL_DISLIKES, dislikes.select(list(DISLIKED_PAIRS)))
        context.write(TRAIN_DISLIKES, known_in_train(dislikes, result, context.recipe.split))

    report = SplitReport.model_validate(result.report)
    return Outcome(report.rows_out, report)
