"""The evaluation of a model: `metrics.json` and `per_user.parquet`."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import polars as pl
import torch

from darec.common.device import pick
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.metrics import Catalogue
from darec.evaluation.protocol import Ranking, Scores, popularity, rank, score, summarise
from darec.evaluation.rerank import Reranker
from darec.evaluation.significance import compare
from darec.evaluation.slices import slices
from schemas import columns as c
from schemas.training import EvaluateConfig


@dataclass(frozen=True)
class EvaluatedModel:
    """One model's ranking and scores on one part of the split."""

    ranking: Ranking
    scores: Scores
    summary: dict[str, float]
    """Means over users, coverage and novelty."""


@dataclass(frozen=True)
class Report:
    """`metrics` is JSON: `test`, `validation`, `popularity` and, given a reference, `reference` and `significance`
    on test; given a reranker, `before_reranking` on test; `slices` of test. A value that is not a number is null.
    `per_user`: each user's test metrics.
    """

    metrics: dict[str, Any]
    per_user: pl.DataFrame


def judge(
    final: Representations,
    data: Interactions,
    held_out: Pairs,
    config: EvaluateConfig,
    catalogue: Catalogue | None = None,
    reranker: Reranker | None = None,
) -> EvaluatedModel:
    """Ranks, on the device that `config` names, and scores one model by the protocol."""
    catalogue = catalogue or Catalogue.of(data)
    device = pick(config.device, "evaluate.device")
    train, wanted = data.train.to(device), held_out.to(device)
    reranker = reranker.to(device) if reranker else None
    ranking = rank(final.to(device), train, wanted, max(config.cutoffs), config.batch_users, reranker)
    ranking = ranking.to(torch.device("cpu"))
    scores = score(ranking, held_out, data.n_items, config.cutoffs, catalogue=catalogue)
    return EvaluatedModel(ranking, scores, scores.means() | summarise(ranking, catalogue, config.cutoffs))


def report(
    final: Representations,
    reference: Representations | None,
    data: Interactions,
    config: EvaluateConfig,
    catalogue: Catalogue | None = None,
    reranker: Reranker | None = None,
) -> Report:
    """Evaluates `final`, the popularity baseline and, if given, the model trained without alignment.

    With a reranker, the lists of `final` and of the reference are reranked; metrics of `final` before that are added.
    """
    catalogue = catalogue or Catalogue.of(data)
    most_popular = popularity(data.train, data.n_users, data.n_items)
    model = judge(final, data, data.test, config, catalogue, reranker)

    metrics: dict[str, Any] = {
        "protocol": config.protocol,
        "test": model.summary,
        "validation": judge(final, data, data.val, config, catalogue, reranker).summary,
        "popularity": judge(most_popular, data, data.test, config, catalogue).summary,
        "slices": [
            asdict(part) for part in slices(model.ranking, data, data.test, config.cutoffs, config.slices, catalogue)
        ],
    }

    columns = _columns(model.scores, "")
    if reference is not None:
        other = judge(reference, data, data.test, config, catalogue, reranker)
        metrics["reference"] = other.summary
        metrics["significance"] = {name: asdict(result) for name, result in compare(model.scores, other.scores).items()}
        columns |= _columns(other.scores, "reference/")
    if reranker is not None:
        before = judge(final, data, data.test, config, catalogue)
        metrics["before_reranking"] = before.summary
        columns |= _columns(before.scores, "before_reranking/")

    users = pl.Series(c.USER_INDEX, model.scores.users.cpu().numpy()).cast(pl.Int32)
    return Report(_plain(metrics), pl.DataFrame({c.USER_INDEX: users, **columns}))


def _columns(scores: Scores, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value.float().cpu().numpy() for name, value in scores.values.items()}


def _plain(value: Any) -> Any:
    """NaN becomes null, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
