"""Checks across the sections of a recipe: settings that contradict each other."""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.source_names import SOURCES

if TYPE_CHECKING:
    from schemas.recipe import Recipe

METRICS = (
    "recall",
    "ndcg",
    "precision",
    "mrr",
    "hit",
    "diversity",
    "novelty",
    "long_tail",
    "calibration",
    "coverage",
    "category_coverage",
    "gini",
)
"""The metrics that evaluation computes at every cutoff (`darec.evaluation.registry`)."""


def contradictions(recipe: "Recipe") -> Iterator[str]:
    """One line for each contradiction, which names the fields of both sides and what is allowed."""
    yield from _split(recipe)
    yield from _prompts(recipe)

    if recipe.graph.event_weights != "ignore" and not recipe.data.has_weights:
        yield (
            "graph.event_weights: the interactions have no weights: set data.events, data.half_life_days or "
            "data.repeats to sum, or graph.event_weights to ignore"
        )

    yield from _graph_weights(recipe)

    if recipe.split.items == "all" and not recipe.train.predicts_cold_rows:
        yield (
            "split.items: all keeps items without interactions, whose vectors only a text can predict, and train "
            "predicts none: train with text vectors and a train.cold_start, or set split.items to core and "
            "split.k_core to 0"
        )

    if recipe.train.dislikes != "ignore" and not recipe.data.has_dislikes:
        yield (
            f"train.dislikes: {recipe.train.dislikes} needs dislikes: set data.dislike_below or a negative weight in "
            "data.events, or train.dislikes to ignore"
        )

    if not recipe.train.learns:
        yield "train.ranking_weight: with 0 no loss is left, because no objective in train.alignment has a weight"
    if recipe.rerank and "text" in recipe.rerank.vectors and not recipe.train.needs_text:
        yield (
            "rerank.similarity: the recipe uses no text: set rerank.similarity to interactions, or train with text "
            "vectors"
        )

    if recipe.llm.batch_api and recipe.llm.engine != "server":
        yield "llm.batch_api: only a server answers batches: set llm.engine to server, or llm.batch_api to false"

    for rule, attribute in recipe.rules.attributes:
        if attribute not in recipe.export.attributes:
            yield f"rules.{rule}: {attribute!r} is not in export.attributes: add it, so that the release has it"

    if recipe.llm.batch_api and recipe.llm.server_urls:
        yield "llm.server_urls: batches go to one server: set llm.server_url, or llm.batch_api to false"

    for field in ("tolerances", "minimums"):
        for metric in getattr(recipe.gate, field):
            if problem := _unmeasured(metric, recipe.evaluate.cutoffs):
                yield f"gate.{field}: {metric!r} is not computed; {problem}"


def _graph_weights(recipe: "Recipe") -> Iterator[str]:
    """Checks that the backbone uses other weights of the edges than those by degree, in training and in evaluation."""
    graph, backbone = recipe.graph, recipe.train.backbone
    other = [name for name, field in type(graph).model_fields.items() if getattr(graph, name) != field.get_default()]
    by_degree = getattr(backbone, "edge_sampling", "uniform") == "degree"
    if other and (by_degree or backbone.name in ("gccf", "autocf")):
        what = "edge_sampling degree" if by_degree else f"the backbone {backbone.name}"
        yield (
            f"graph.{other[0]}: {what} weights edges by the degrees of their nodes: leave graph.{other[0]} at its "
            "default, or take another backbone or sampling"
        )


def _split(recipe: "Recipe") -> Iterator[str]:
    """Checks that files with a column mapping map the columns that the split needs."""
    mapped = SOURCES[recipe.data.source] is None
    columns, strategy = recipe.data.interaction_columns, recipe.split.strategy
    if mapped and strategy in ("temporal", "global-time") and columns.timestamp is None:
        yield (
            f"split.strategy: {strategy} needs timestamps, and data.interaction_columns.timestamp is not set: name the "
            "column, or set split.strategy to random"
        )

    by_file = isinstance(recipe.data.interactions, dict)
    if by_file and columns.split is not None:
        yield "data.interaction_columns.split: data.interactions names the files of train, val and test: set it to null"
    if mapped and strategy == "column" and columns.split is None and not by_file:
        yield (
            "split.strategy: column needs labels, and data.interaction_columns.split is not set: name the column, or "
            "set split.strategy to temporal or random"
        )


def _prompts(recipe: "Recipe") -> Iterator[str]:
    """Checks that prompt and answer fit into the context of the model."""
    for stage in ("profile_items", "profile_users"):
        tokens = getattr(recipe, stage).max_tokens
        if tokens >= recipe.llm.max_model_len:
            room = f"llm.max_model_len, {recipe.llm.max_model_len}"
            yield f"{stage}.max_tokens: {tokens} leave no room for a prompt in {room}"


def _unmeasured(metric: str, cutoffs: tuple[int, ...]) -> str:
    """Why evaluation does not compute `metric`; an empty string if it does."""
    measured = [f"{name}@{k}" for name in METRICS for k in cutoffs]
    if metric in measured:
        return ""

    name, _, k = metric.partition("@")
    if name in METRICS and k.isdecimal():
        return f"evaluate.cutoffs are {', '.join(map(str, cutoffs))}: add {k} to them, or use one of them"

    nearest = difflib.get_close_matches(metric, measured, n=1, cutoff=0.5)
    return (
        f"did you mean {nearest[0]!r}?" if nearest else f"the metrics are {', '.join(METRICS)} at each evaluate.cutoffs"
    )
