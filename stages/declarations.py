"""The pipeline on one page: the inputs, outputs, key and body of every stage.

No large library is imported here, so that `darec status` is fast. The order of the stages follows from their inputs
(`stages.registry`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from darec.artifacts import files
from darec.artifacts.store import Artifact, Store
from darec.dataset.remote import changed, has_remote, local
from darec.dataset.sources import fingerprint
from darec.text.fallbacks import due_again
from darec.text.identity import model_identity, names_variable, prompt_hash
from darec.text.models import identity
from schemas.backbones import ClosedFormConfig
from schemas.copies import COPIES
from schemas.recipe import Recipe
from schemas.reports import (
    ChoiceReport,
    EmbedReport,
    EvaluationReport,
    ExportReport,
    GraphReport,
    IngestReport,
    ListsReport,
    ProfileReport,
    PublishReport,
    RerankReport,
    SplitReport,
    TrainReport,
    VectorsReport,
)
from schemas.steps import step_settings
from stages.contract import Effect, Stage

# ---------------------------------------------------------------- ingest: raw files become clean tables


def _copies(recipe: Recipe) -> Path:
    """The folder of the copies of remote sources; the store is not opened for a recipe without any."""
    return Store(recipe.runtime.store).root / COPIES if has_remote(recipe.data) else Path(COPIES)


INGEST = Stage(
    name="ingest",
    version=1,
    subflow="semantic",
    body="stages.ingest",
    report=IngestReport,
    reads=lambda recipe: (),
    writes=(files.INTERACTIONS, files.ITEMS, files.USERS),
    config=lambda recipe: {"data": recipe.data},
    # The key contains the local copies of remote sources, which `stages.prepare` updates before a run.
    fingerprint=lambda recipe: fingerprint(local(recipe.data, _copies(recipe))),
    unread=lambda recipe: changed(recipe.data, _copies(recipe)),
)

# ---------------------------------------------------------------- split: train, val and test; ids become numbers

SPLIT = Stage(
    name="split",
    version=1,
    subflow="semantic",
    body="stages.split",
    report=SplitReport,
    # Items are an input only if all of them are kept. An edited title then makes the split run again, with the same
    # files as a result, so that the stages after it stay hits.
    reads=lambda recipe: (
        files.INTERACTIONS,
        *((files.ITEMS,) if recipe.split.items == "all" else ()),
        *((files.DISLIKES,) if recipe.data.has_dislikes else ()),
    ),
    writes=(files.TRAIN_PART, files.VAL_PART, files.TEST_PART, files.USER_VOCABULARY, files.ITEM_VOCABULARY),
    config=lambda recipe: {"split": recipe.split},
)

# ---------------------------------------------------------------- profile_items, profile_users: the LLM writes

PROFILE_ITEMS = Stage(
    name="profile_items",
    version=1,
    subflow="semantic",
    body="stages.profile_items",
    report=ProfileReport,
    reads=lambda recipe: (files.ITEMS, files.ITEM_VOCABULARY),
    writes=(files.ITEM_PROFILES, files.ITEM_FALLBACKS),
    outdated=lambda recipe, artifact, ledger: due_again(recipe.llm, artifact, files.ITEM_FALLBACKS, ledger),
    config=lambda recipe: {"llm": recipe.llm, "profile_items": recipe.profile_items},
    fingerprint=lambda recipe: {
        "prompt": prompt_hash(recipe.profile_items.prompt),
        "model": model_identity(recipe.llm),
    },
    counts_rows=True,
)


def _shown_dislikes(recipe: Recipe) -> tuple[files.File[Any], ...]:
    """The dislikes, if the prompt shows them."""
    shows = recipe.data.has_dislikes and names_variable(recipe.profile_users.prompt, "disliked")
    return (files.TRAIN_DISLIKES,) if shows else ()


PROFILE_USERS = Stage(
    name="profile_users",
    version=1,
    subflow="semantic",
    body="stages.profile_users",
    report=ProfileReport,
    reads=lambda recipe: (
        files.ITEMS,
        files.USERS,
        files.TRAIN_PART,
        files.USER_VOCABULARY,
        files.ITEM_VOCABULARY,
        files.ITEM_PROFILES,
        *_shown_dislikes(recipe),
    ),
    writes=(files.USER_PROFILES, files.USER_FALLBACKS),
    outdated=lambda recipe, artifact, ledger: due_again(recipe.llm, artifact, files.USER_FALLBACKS, ledger),
    config=lambda recipe: {"llm": recipe.llm, "profile_users": recipe.profile_users},
    fingerprint=lambda recipe: {
        "prompt": prompt_hash(recipe.profile_users.prompt),
        "model": model_identity(recipe.llm),
    },
    counts_rows=True,
)

# ---------------------------------------------------------------- embed: one text vector per user and per item

EMBED = Stage(
    name="embed",
    version=1,
    subflow="semantic",
    body="stages.embed",
    report=EmbedReport,
    reads=lambda recipe: (files.ITEMS, files.USERS, files.ITEM_PROFILES, files.USER_PROFILES),
    writes=(files.TEXT_VECTORS,),
    config=lambda recipe: {"embed": recipe.embed},
    fingerprint=lambda recipe: {
        "item_prompt": prompt_hash(recipe.embed.item_prompt),
        "user_prompt": prompt_hash(recipe.embed.user_prompt),
        "model": identity(recipe.embed.model, recipe.embed.revision),
    },
    counts_rows=True,
)

# ---------------------------------------------------------------- graph: train interactions as weighted edges

GRAPH = Stage(
    name="graph",
    version=1,
    subflow="collaborative",
    body="stages.graph",
    report=GraphReport,
    reads=lambda recipe: (files.TRAIN_PART,),
    writes=(files.EDGES,),
    config=lambda recipe: {"graph": recipe.graph},
)

# ---------------------------------------------------------------- train_reference, choose, train: user and item vectors

_TRAIN_INPUTS = (files.TRAIN_PART, files.VAL_PART, files.USER_VOCABULARY, files.ITEM_VOCABULARY, files.EDGES)


def _dislikes(recipe: Recipe, file: files.File[Any]) -> tuple[files.File[Any], ...]:
    """The dislikes, if training makes use of them."""
    return (file,) if recipe.train.dislikes != "ignore" else ()


def _grown(recipe: Recipe, source: Artifact) -> Mapping[str, Any]:
    """The settings of a step, if they are not those of the recipe because the source has many rows.

    If the rule changes, models of large data are trained again, and those of small data stay hits.
    """
    pairs = source.manifest.rows
    settings, configured = step_settings(recipe.train, pairs), step_settings(recipe.train, 0)
    closed_form = isinstance(recipe.train.backbone, ClosedFormConfig)
    return {} if closed_form or settings == configured else {"step": asdict(settings)}


def _without_text(recipe: Recipe) -> Mapping[str, Any]:
    """The same backbone, loss and schedule without text: the reference for the effect of the alignment."""
    return {"train": recipe.train.without_text()}


TRAIN_REFERENCE = Stage(
    name="train_reference",
    version=3,
    subflow="collaborative",
    body="stages.train",
    report=TrainReport,
    reads=lambda recipe: (*_TRAIN_INPUTS, *_dislikes(recipe, files.TRAIN_DISLIKES)),
    writes=(files.REFERENCE_EMBEDDINGS, files.REFERENCE_MODEL, files.REFERENCE_HISTORY),
    config=_without_text,
    by_size=lambda recipe, upstream: _grown(recipe, upstream[GRAPH.name]),
)

CHOOSE = Stage(
    name="choose",
    version=1,
    subflow="collaborative",
    body="stages.choose",
    report=ChoiceReport,
    reads=lambda recipe: (
        *_TRAIN_INPUTS,
        *_dislikes(recipe, files.TRAIN_DISLIKES),
        *((files.TEXT_VECTORS,) if recipe.train.needs_text else ()),
    ),
    writes=(files.CHOICE,),
    config=lambda recipe: {"search": recipe.search, "train": recipe.train},
    by_size=lambda recipe, upstream: _grown(recipe, upstream[GRAPH.name]),
)


def _choice(recipe: Recipe) -> tuple[files.File[Any], ...]:
    """The chosen settings, if the recipe has a search."""
    return (files.CHOICE,) if recipe.search else ()


TRAIN = Stage(
    name="train",
    version=3,
    subflow="collaborative",
    body="stages.train",
    report=TrainReport,
    reads=lambda recipe: (
        *_TRAIN_INPUTS,
        *_dislikes(recipe, files.TRAIN_DISLIKES),
        *((files.TEXT_VECTORS,) if recipe.train.needs_text else ()),
        *_choice(recipe),
    ),
    writes=(files.EMBEDDINGS, files.MODEL, files.HISTORY),
    config=lambda recipe: {"train": recipe.train},
    by_size=lambda recipe, upstream: _grown(recipe, upstream[GRAPH.name]),
    # The model that a warm start begins with is not part of the key: otherwise each release would make its own model
    # stale, and a second run on the same data would train again.
    reads_release=lambda recipe: recipe.train.warm_start,
)

# ---------------------------------------------------------------- rerank: the order of the candidates

RERANK = Stage(
    name="rerank",
    version=1,
    subflow="collaborative",
    body="stages.rerank",
    report=RerankReport,
    reads=lambda recipe: (
        files.EMBEDDINGS,
        *((files.TEXT_VECTORS,) if recipe.rerank and "text" in recipe.rerank.vectors else ()),
    ),
    writes=(files.RERANKER,),
    config=lambda recipe: {"rerank": recipe.rerank},
)


def _reranker(recipe: Recipe) -> tuple[files.File[Any], ...]:
    """The file of the reranker, if there is one."""
    return (files.RERANKER,) if recipe.rerank else ()


# ---------------------------------------------------------------- evaluate: metrics on validation and test

EVALUATE = Stage(
    name="evaluate",
    version=2,
    subflow="collaborative",
    body="stages.evaluate",
    report=EvaluationReport,
    reads=lambda recipe: (
        files.TRAIN_PART,
        files.VAL_PART,
        files.TEST_PART,
        *((files.REFERENCE_EMBEDDINGS, files.TEXT_VECTORS) if recipe.train.needs_text else ()),
        *((files.ITEMS, files.ITEM_VOCABULARY) if recipe.evaluate.category else ()),
        files.EMBEDDINGS,
        *_reranker(recipe),
    ),
    writes=(files.METRICS, files.PER_USER_METRICS),
    config=lambda recipe: {"evaluate": recipe.evaluate},
)

# ---------------------------------------------------------------- refit: the released model, on all interactions

REFIT = Stage(
    name="refit",
    version=1,
    subflow="collaborative",
    body="stages.refit",
    report=TrainReport,
    reads=lambda recipe: (
        files.TRAIN_PART,
        files.VAL_PART,
        files.TEST_PART,
        files.USER_VOCABULARY,
        files.ITEM_VOCABULARY,
        files.HISTORY,
        *_dislikes(recipe, files.ALL_DISLIKES),
        *((files.TEXT_VECTORS,) if recipe.train.needs_text else ()),
        *_choice(recipe),
    ),
    writes=(files.REFIT_EMBEDDINGS, files.REFIT_MODEL, files.REFIT_HISTORY),
    config=lambda recipe: {"train": recipe.train, "graph": recipe.graph},
    by_size=lambda recipe, upstream: _grown(recipe, upstream[SPLIT.name]),
    reads_release=lambda recipe: recipe.train.warm_start,
)

# ---------------------------------------------------------------- export: a self-contained bundle

EXPORT = Stage(
    name="export",
    version=2,
    subflow="collaborative",
    body="stages.export",
    report=ExportReport,
    reads=lambda recipe: (
        files.ITEMS,
        files.TRAIN_PART,
        files.VAL_PART,
        files.TEST_PART,
        files.USER_VOCABULARY,
        files.ITEM_VOCABULARY,
        # With a refit the evaluated vectors are not exported, but later gates compare them. As an input of the
        # release they are kept as long as the release.
        files.EMBEDDINGS,
        *_choice(recipe),
        *_reranker(recipe),
        *((files.REFIT_EMBEDDINGS,) if recipe.train.refit == "all" else ()),
        *((files.ALL_DISLIKES,) if recipe.data.has_dislikes else ()),
        files.METRICS,
    ),
    writes=files.BUNDLE,
    config=lambda recipe: {"export": recipe.export},
)

# ---------------------------------------------------------------- publish: the gate, and the current release

PUBLISH = Effect(
    name="publish",
    subflow="collaborative",
    body="stages.publish",
    report=PublishReport,
    reads=lambda recipe: files.BUNDLE,
    config=lambda recipe: {"gate": recipe.gate},
)

# ---------------------------------------------------------------- lists: the lists of all users

LISTS = Effect(
    name="lists",
    subflow="collaborative",
    body="stages.lists",
    report=ListsReport,
    reads=lambda recipe: (),
    config=lambda recipe: {"lists": recipe.lists},
    after=("publish",),
    undone="to be written",
)

# ---------------------------------------------------------------- vectors: the release in a vector store

VECTORS = Effect(
    name="vectors",
    subflow="collaborative",
    body="stages.vectors",
    report=VectorsReport,
    reads=lambda recipe: (),
    config=lambda recipe: {"vectors": recipe.vectors},
    after=("publish",),
    undone="to be pushed",
)
