"""train and train_reference: graph, interactions and text vectors become user and item vectors.

The reference is the same backbone, loss and schedule without any text: what the alignment is measured against.

The model that a warm start begins with is not in the key: otherwise each release would make the model it was made from
stale, and a second run on the same data would train again. It is in the report, and so in the manifest.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.recipe import Recipe
from schemas.section import hashed
from schemas.training import TextConfig, TrainConfig
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from torch import Tensor

    from darec.model.interactions import Interactions, Representations
    from darec.model.propagation import Adjacency
    from darec.serving.warmstart import Source
    from darec.training import Trained

Configured = Callable[[Recipe], TrainConfig]

_SPLIT = ("train.parquet", "val.parquet", "users.parquet", "items.parquet")


def _aligned(recipe: Recipe) -> TrainConfig:
    return recipe.train


def _plain(recipe: Recipe) -> TrainConfig:
    return recipe.train.model_copy(update={"alignment": (), "text": TextConfig(), "warm_start": False})


def _inputs(configured: Configured) -> Callable[[Recipe], tuple[Input, ...]]:
    def inputs(recipe: Recipe) -> tuple[Input, ...]:
        needed = (Input("split", _SPLIT), Input("graph", ("edges.parquet",)))
        text = (Input("embed", ("vectors.safetensors",)),) if configured(recipe).needs_text else ()
        return (*needed, *text)

    return inputs


def _config(configured: Configured) -> Callable[[Recipe], dict[str, Any]]:
    return lambda recipe: {"train": configured(recipe)}


def _run(configured: Configured) -> Callable[[StageContext], Outcome]:
    def run(context: StageContext) -> Outcome:
        from darec.training import train

        config = configured(context.recipe)
        interactions = _interactions(context)
        source = _source(context, config)
        warm = _warm(context, source, config.dim)
        began = time.perf_counter()
        trained = train(
            config,
            interactions,
            _text(context) if config.needs_text else None,
            adjacency=_adjacency(context, interactions),
            warm=warm,
            resume=context.work / "checkpoint.safetensors",
            progress=context.progress,
        )
        _write(trained, context.out)
        report = _report(trained, time.perf_counter() - began)
        begun_with = source.fingerprint if source and warm is not None else None
        return Outcome(rows=interactions.n_nodes, report=report | {"warm_start": begun_with})

    return run


def _interactions(context: StageContext) -> "Interactions":
    import polars as pl

    from darec.artifacts.tables import read_table
    from darec.model.interactions import Interactions, Pairs
    from schemas.tables import SPLIT_PART

    train, val = (
        Pairs.of_table(read_table(context.input("split", f"{part}.parquet"), SPLIT_PART)) for part in ("train", "val")
    )
    users, items = (
        pl.scan_parquet(context.input("split", f"{side}.parquet")).select(pl.len()).collect().item()
        for side in ("users", "items")
    )
    nothing = Pairs(train.users[:0], train.items[:0])  # training does not see the test part
    return Interactions(users, items, train, val, nothing)


def _adjacency(context: StageContext, interactions: "Interactions") -> "Adjacency":
    from darec.artifacts.tables import read_table
    from darec.model.propagation import Adjacency
    from schemas.tables import EDGES

    edges = read_table(context.input("graph", "edges.parquet"), EDGES)
    return Adjacency.of_table(edges, interactions.n_users, interactions.n_items)


def _text(context: StageContext) -> "Representations":
    from safetensors.torch import load_file

    from darec.model.interactions import Representations

    vectors = load_file(context.input("embed", "vectors.safetensors"))
    return Representations.join(vectors["user"], vectors["item"])


def _source(context: StageContext, config: TrainConfig) -> "Source | None":
    """The model in production, if its embeddings may be begun with: one of other settings would colour these."""
    from darec.serving.warmstart import current_model

    if not config.warm_start:
        return None
    source = current_model(context.store)
    return source if source and _settings(source.settings) == _settings(hashed(config)) else None


def _settings(train: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in train.items() if name not in ("warm_start", "seed")}


def _warm(context: StageContext, source: "Source | None", dim: int) -> "Tensor | None":
    """The id embeddings of the model that is in production, in the order of this run's vocabularies."""
    from darec.serving.warmstart import carry_over

    if source is None:
        return None
    users, items = (context.input("split", f"{side}.parquet") for side in ("users", "items"))
    return carry_over(source, users, items, dim)


def _write(trained: "Trained", out: Path) -> None:
    from safetensors.torch import save_file

    from darec.artifacts.tables import write_table
    from schemas.tables import HISTORY

    final = trained.final
    save_file({"user": final.user.contiguous(), "item": final.item.contiguous()}, out / "embeddings.safetensors")
    save_file({name: value.contiguous() for name, value in trained.state.items()}, out / "model.safetensors")
    write_table(trained.history, out / "history.parquet", HISTORY)


def _report(trained: "Trained", seconds: float) -> dict[str, Any]:
    return {
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "validation": trained.validation,
        "training_seconds": round(seconds, 2),
    }


def _stage(name: str, configured: Configured) -> Stage:
    return Stage(
        name=name,
        version=3,
        outputs=("embeddings.safetensors", "model.safetensors", "history.parquet"),
        inputs=_inputs(configured),
        config=_config(configured),
        run=_run(configured),
    )


STAGE = _stage("train", _aligned)
REFERENCE_STAGE = _stage("train_reference", _plain)
