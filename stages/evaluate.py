"""evaluate: how good the vectors are on validation and test, beside popularity and the model without alignment."""

import torch

from darec.artifacts.files import EMBEDDINGS, METRICS, REFERENCE_EMBEDDINGS, TEST_PART, TRAIN_PART, VAL_PART, File
from darec.artifacts.formats import Vectors
from darec.evaluation.report import report
from darec.model.interactions import Interactions, Pairs, Representations
from schemas.reports import EvaluationReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[EvaluationReport]:
    """Evaluates the trained vectors and what they are compared with."""
    final = _vectors(context, EMBEDDINGS)
    reference = _vectors(context, REFERENCE_EMBEDDINGS) if context.recipe.train.needs_text else None
    parts = (Pairs.of_table(context.read(part)) for part in (TRAIN_PART, VAL_PART, TEST_PART))
    interactions = Interactions(final.n_users, len(final.item), *parts)
    result = report(final, reference, interactions, context.recipe.evaluate)

    context.write(METRICS, result.metrics)
    result.per_user.write_parquet(context.out / "per_user.parquet", compression="zstd")
    return Outcome(result.per_user.height, EvaluationReport.model_validate(result.metrics))


def _vectors(context: StageContext, file: File[Vectors]) -> Representations:
    vectors = context.read(file)
    return Representations.join(torch.from_numpy(vectors.user), torch.from_numpy(vectors.item))
