"""train, train_reference and refit: compute user and item vectors from graph, interactions and text vectors."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from darec.artifacts.files import (
    CHOICE,
    EDGES,
    EMBEDDINGS,
    HISTORY,
    ITEM_VOCABULARY,
    TEXT_VECTORS,
    TRAIN_DISLIKES,
    TRAIN_PART,
    USER_VOCABULARY,
    VAL_PART,
    File,
)
from darec.artifacts.formats import Vectors
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.warnings import warn_once
from darec.serving.warmstart import Source, carry_over, current_model, trained_share
from darec.training import Adjacency, Trained, train
from darec.training.search import candidates
from schemas import columns as c
from schemas.reports import TrainReport
from schemas.section import hashed
from schemas.training import TrainConfig
from stages.contract import Outcome, StageContext

_LEAK = 1e-3  # share of held-out interactions in the train part of the last release that a warm start may have


def run(context: StageContext) -> Outcome[TrainReport]:
    """Trains the model that is evaluated. The test part is not an input."""
    return fit(context, judged_interactions(context), lambda: context.read(EDGES))


def judged_interactions(context: StageContext) -> Interactions:
    """The train and validation parts, and no test."""
    train_pairs, val_pairs = (
        Pairs.of_table(context.scan(part).select(c.USER_INDEX, c.ITEM_INDEX).collect(engine="streaming"))
        for part in (TRAIN_PART, VAL_PART)
    )
    no_test = Pairs(train_pairs.users[:0], train_pairs.items[:0])
    return Interactions(*sizes(context), train_pairs, val_pairs, no_test, dislikes(context, TRAIN_DISLIKES))


def fit(
    context: StageContext,
    interactions: Interactions,
    edges: Callable[[], pl.DataFrame],
    last_epoch: int | None = None,
    text_share: float | None = None,
) -> Outcome[TrainReport]:
    """Trains with the settings of the stage and writes model, vectors and history. A killed run resumes from its
    checkpoint. The edges are read if the model has a graph."""
    config, choice = chosen_settings(context, context.config["train"])
    size = interactions.n_users, interactions.n_items
    source = _source(context, choice)
    warm = _warm_embeddings(context, source, config.dim)

    started = time.perf_counter()
    trained = train(
        config,
        interactions,
        text_vectors(context) if config.needs_text else None,
        adjacency=Adjacency.of_table(edges(), *size) if config.needs_graph else None,
        warm=warm,
        last_epoch=last_epoch,
        text_share=text_share,
        resume=context.work / "checkpoint.safetensors",
        progress=context.progress,
    )
    seconds = time.perf_counter() - started

    _write(trained, context)
    report = TrainReport(
        interactions=len(interactions.train),
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        validation=trained.validation,
        batch_size=trained.batch_size,
        choice=choice,
        text_share=trained.text_share,
        training_seconds=round(seconds, 2),
        warm_start=source.fingerprint if source and warm is not None else None,
    )
    return Outcome(interactions.n_nodes, report)


def sizes(context: StageContext) -> tuple[int, int]:
    """The numbers of users and of items."""
    n_users, n_items = (
        pl.scan_parquet(context.path(side)).select(pl.len()).collect().item()
        for side in (USER_VOCABULARY, ITEM_VOCABULARY)
    )
    return n_users, n_items


def dislikes(context: StageContext, file: File[pl.DataFrame]) -> Pairs | None:
    """The dislikes that training uses, or None."""
    return Pairs.of_table(context.read(file)) if context.has(file) else None


def text_vectors(context: StageContext) -> Representations:
    """The text vectors of users and items."""
    vectors = context.read(TEXT_VECTORS)
    return Representations.join(torch.from_numpy(vectors.user), torch.from_numpy(vectors.item))


def chosen_settings(context: StageContext, config: TrainConfig) -> tuple[TrainConfig, str | None]:
    """The training settings, `config` unless a search chose others, and the name of its choice."""
    if not context.has(CHOICE) or context.recipe.search is None:
        return config, None
    name = context.read(CHOICE)["name"]
    return candidates(context.recipe.search, config)[name], name


def _source(context: StageContext, choice: str | None) -> Source | None:
    """The released model to start from, if it was trained with the same settings and not on interactions that are held
    out now.

    Embeddings that know the test would make every metric too high, and later warm starts would inherit them.
    """
    config: TrainConfig = context.config["train"]
    source = current_model(context.store) if config.warm_start else None
    if source is None or source.train.manifest.report.get("choice") != choice:
        return None
    if _compared(source.settings) != _compared(hashed(config)):
        return None

    again = "training starts from random embeddings"
    if source.split_settings != hashed(context.recipe.split):
        warn_once(f"{again}: the current release was trained with other settings of `split`")
        return None

    held_out = context.scan(VAL_PART).select(c.USER_INDEX, c.ITEM_INDEX).collect(engine="streaming")
    share = trained_share(source, context.path(USER_VOCABULARY), context.path(ITEM_VOCABULARY), held_out)
    if share > _LEAK:
        warn_once(f"{again}: the current release was trained on {share:.1%} of the interactions that are held out now")
        return None
    return source


def _compared(train_section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in train_section.items() if name not in ("warm_start", "seed")}


def _warm_embeddings(context: StageContext, source: Source | None, dim: int) -> Tensor | None:
    """The id embeddings of the released model in the order of this run's vocabularies."""
    if source is None:
        return None
    return carry_over(source, context.path(USER_VOCABULARY), context.path(ITEM_VOCABULARY), dim)


def _write(trained: Trained, context: StageContext) -> None:
    # All three stages write files of the same names into their own artifacts.
    final = trained.final
    context.write(EMBEDDINGS, Vectors(final.user.cpu().numpy(), final.item.cpu().numpy()))
    save_file({name: value.contiguous() for name, value in trained.state.items()}, context.out / "model.safetensors")
    context.write(HISTORY, trained.history)
