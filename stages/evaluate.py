"""evaluate: metrics of the vectors on validation and test, with popularity and the model without text."""

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from darec.artifacts.files import (
    EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    METRICS,
    REFERENCE_EMBEDDINGS,
    RERANKER,
    TEST_PART,
    TEXT_VECTORS,
    TRAIN_PART,
    VAL_PART,
    File,
)
from darec.artifacts.formats import Vectors
from darec.common.errors import UserError
from darec.common.interactions import Interactions, Pairs, Representations
from darec.dataset.attributes import attribute_values
from darec.evaluation.metrics import Catalogue
from darec.evaluation.report import report
from darec.evaluation.rerankers import read
from darec.serving.candidates import ranker_for
from schemas import columns as c
from schemas.reports import EvaluationReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[EvaluationReport]:
    """Evaluates the trained vectors, popularity and the reference."""
    final = _vectors(context, EMBEDDINGS)
    has_text = context.recipe.train.needs_text
    reference = _vectors(context, REFERENCE_EMBEDDINGS) if has_text else None
    parts = (Pairs.of_table(_columns(context, part)) for part in (TRAIN_PART, VAL_PART, TEST_PART))
    interactions = Interactions(final.n_users, len(final.item), *parts)

    text = functional.normalize(torch.from_numpy(context.read(TEXT_VECTORS).item), dim=-1) if has_text else None
    category = context.recipe.evaluate.category
    catalogue = Catalogue.of(interactions, text, _categories(context, category) if category else None)
    reranker = read(context.path(RERANKER)) if context.recipe.rerank else None
    ranker = ranker_for(context.recipe.evaluate, interactions.n_users, interactions.n_items)
    ages = item_ages(_columns(context, TRAIN_PART, c.TIMESTAMP), interactions.n_items)
    result = report(final, reference, interactions, context.recipe.evaluate, catalogue, reranker, ranker, ages)

    context.write(METRICS, result.metrics)
    result.per_user.write_parquet(context.out / "per_user.parquet", compression="zstd")
    return Outcome(result.per_user.height, EvaluationReport.model_validate(result.metrics))


def _columns(context: StageContext, part: File[pl.DataFrame], *more: str) -> pl.DataFrame:
    """The numbers of users and items, and other columns, of a part of the split."""
    return context.scan(part).select(c.USER_INDEX, c.ITEM_INDEX, *more).collect(engine="streaming")


def _vectors(context: StageContext, file: File[Vectors]) -> Representations:
    vectors = context.read(file)
    return Representations.join(torch.from_numpy(vectors.user), torch.from_numpy(vectors.item))


def item_ages(train: pl.DataFrame, n_items: int) -> Tensor | None:
    """Days from each item's first train interaction to the last one of all, -1 without one; None without times."""
    timed = train.drop_nulls(c.TIMESTAMP)
    if timed.is_empty():
        return None

    times = timed[c.TIMESTAMP].to_numpy()
    first = np.full(n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, timed[c.ITEM_INDEX].to_numpy(), times)
    return torch.from_numpy(np.where(first <= times.max(), (times.max() - first) // 86_400, -1))


def _categories(context: StageContext, attribute: str) -> Tensor:
    """Which values of the attribute each item has: bool [items, values].

    Raises:
        UserError: no item has the attribute.
    """
    vocabulary = context.read(ITEM_VOCABULARY)
    values = attribute_values(context.read(ITEMS), vocabulary, [attribute])
    if values.is_empty():
        hint = "name an attribute of the items file, or leave it empty"
        raise UserError(f"no item has the attribute {attribute!r}", where="evaluate.category", hint=hint)

    numbers = values["value"].rank("dense").cast(pl.Int64).to_numpy() - 1
    categories = torch.zeros(vocabulary.height, int(numbers.max()) + 1, dtype=torch.bool)
    categories[values[c.ITEM_INDEX].cast(pl.Int64).to_numpy(), numbers] = True
    return categories
