"""The evaluation of a model: `metrics.json` and `per_user.parquet`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import polars as pl
import torch
from torch import Tensor

from darec.common.device import pick
from darec.common.interactions import Interactions, ItemLists, Pairs, Representations
from darec.evaluation.metrics import Catalogue
from darec.evaluation.protocol import Matches, Ranking, Scores, popularity, rank, score, summarise
from darec.evaluation.ranking import MakeRanker, MostPopular, Ranker
from darec.evaluation.rerank import Reranker
from darec.evaluation.significance import compare
from darec.evaluation.slices import slices
from schemas import columns as c
from schemas.training import EvaluateConfig

_CHECKED = 500  # number of users whose lists are compared with exact ones


@dataclass(frozen=True)
class EvaluatedModel:
    """One model's ranking and scores on one part of the split."""

    ranking: Ranking
    scores: Scores
    summary: dict[str, float]
    """Means over users, coverage and novelty."""


@dataclass(frozen=True)
class Report:
    """`metrics` is JSON: `test`, `validation`, `popularity`; with a reference, `reference` and `significance` on test;
    with a reranker, `before_reranking` on test; `slices` of test. NaN is null. `per_user`: each user's test metrics.
    """

    metrics: dict[str, Any]
    per_user: pl.DataFrame


def evaluate_model(
    final: Representations,
    data: Interactions,
    held_out: Pairs,
    config: EvaluateConfig,
    catalogue: Catalogue | None = None,
    reranker: Reranker | None = None,
) -> EvaluatedModel:
    """Ranks and scores one model by the protocol, on the device in `config`."""
    [ranking] = _rankings([(final, held_out, reranker, Ranker)], data, config)
    return _scored(Matches(ranking, held_out, data.n_items), config, catalogue or Catalogue.of(data))


def report(
    final: Representations,
    reference: Representations | None,
    data: Interactions,
    config: EvaluateConfig,
    catalogue: Catalogue | None = None,
    reranker: Reranker | None = None,
    ranker: MakeRanker = Ranker,
    ages: Tensor | None = None,
) -> Report:
    """Evaluates `final`, the popularity baseline and, if given, the model trained without text.

    With a reranker, the lists of `final` and of the reference are reranked; metrics of `final` before that are added.

    Validation and test rank the same items, so one ranking of `final` serves both. If `ranker` is approximate, the
    lists of a sample of users are compared with exact ones: `candidates`. `ages` are days since each item's first train
    interaction, -1 without one: with these there are slices by age.
    """
    catalogue = catalogue or Catalogue.of(data)
    most_popular = popularity(data.train, data.n_users, data.n_items)
    either = data.val.joined(data.test)
    others = {
        "popularity": (most_popular, data.test, None, MostPopular),
        **({"reference": (reference, data.test, reranker, ranker)} if reference is not None else {}),
        **({"before_reranking": (final, data.test, None, ranker)} if reranker is not None else {}),
    }
    lists, *rankings = _rankings([(final, either, reranker, ranker), *others.values()], data, config)

    # The hits of a ranking are found once, for its metrics and for all slices.
    in_test = Matches(lists.of(data.test.users), data.test, data.n_items)
    in_val = Matches(lists.of(data.val.users), data.val, data.n_items)
    of_others = {name: Matches(each, data.test, data.n_items) for name, each in zip(others, rankings, strict=True)}
    model = _scored(in_test, config, catalogue)

    sliced = {name: each for name, each in of_others.items() if name != "before_reranking"}
    parts = slices(in_test, data, data.test, config.cutoffs, config.slices, model.scores, ages, sliced)
    metrics: dict[str, Any] = {
        "protocol": config.protocol,
        "test": model.summary,
        "validation": _scored(in_val, config, catalogue).summary,
        "slices": [asdict(part) for part in parts],
    }

    columns = _columns(model.scores, "")
    for name, matches in of_others.items():
        other = _scored(matches, config, catalogue)
        metrics[name] = other.summary
        if name == "reference":
            compared = compare(model.scores, other.scores)
            metrics["significance"] = {metric: asdict(result) for metric, result in compared.items()}
        if name != "popularity":
            columns |= _columns(other.scores, f"{name}/")
    if not lists.exact:
        metrics["candidates"] = _check(final, model.ranking, data, config, reranker)

    users = pl.Series(c.USER_INDEX, model.scores.users.cpu().numpy()).cast(pl.Int32)
    return Report(_plain(metrics), pl.DataFrame({c.USER_INDEX: users, **columns}))


def _rankings(
    wanted: Sequence[tuple[Representations, Pairs, Reranker | None, MakeRanker]],
    data: Interactions,
    config: EvaluateConfig,
) -> list[Ranking]:
    """The lists of each model for the users of its pairs, all without the same train items."""
    device, k = pick(config.device, "evaluate.device"), max(config.cutoffs)
    seen = ItemLists(data.train.to(device), data.n_users, data.n_items)
    found = []
    for final, pairs, reranker, ranker in wanted:
        placed = reranker.to(device) if reranker else None
        ranking = rank(final.to(device), seen, pairs.to(device), k, config.batch_users, placed, ranker)
        found.append(ranking.to(torch.device("cpu")))
    return found


def _scored(matches: Matches, config: EvaluateConfig, catalogue: Catalogue) -> EvaluatedModel:
    scores = matches.score(config.cutoffs, catalogue=catalogue)
    summary = scores.means() | summarise(matches.ranking, catalogue, config.cutoffs)
    return EvaluatedModel(matches.ranking, scores, summary)


def _check(
    final: Representations, ranking: Ranking, data: Interactions, config: EvaluateConfig, reranker: Reranker | None
) -> dict[str, float]:
    """Compares the lists of a sample of users with exact ones: the share of common items, and the recall of both."""
    step, k = -(-len(ranking.users) // _CHECKED) or 1, max(config.cutoffs)
    chosen = torch.isin(data.test.users, ranking.users[::step])
    pairs = Pairs(data.test.users[chosen], data.test.items[chosen])
    [exact], lists = _rankings([(final, pairs, reranker, Ranker)], data, config), ranking.of(pairs.users)
    found = (exact.top[:, :, None] == lists.top[:, None, :]).any(2).double().mean()
    recalls = [score(each, pairs, data.n_items, (k,), ("recall",)).means()[f"recall@{k}"] for each in (lists, exact)]
    told = {"users": len(exact.users), "found": float(found)}
    return told | {f"recall@{k}": recalls[0], f"exact recall@{k}": recalls[1]}


def _columns(scores: Scores, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value.float().cpu().numpy() for name, value in scores.values.items()}


def _plain(value: Any) -> Any:
    """NaN becomes null, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
