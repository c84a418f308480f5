"""evaluate: how good the vectors are on validation and test, beside popularity and the model without alignment."""

import json
from typing import TYPE_CHECKING, Any

from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    from darec.model.interactions import Interactions, Representations

_PARTS = ("train.parquet", "val.parquet", "test.parquet")


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    models = ("train", "train_reference") if recipe.train.needs_text else ("train",)
    return (Input("split", _PARTS), *(Input(model, ("embeddings.safetensors",)) for model in models))


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"evaluate": recipe.evaluate}


def _run(context: StageContext) -> Outcome:
    from darec.evaluation.report import report

    final = _vectors(context, "train")
    reference = _vectors(context, "train_reference") if context.recipe.train.needs_text else None
    result = report(final, reference, _interactions(context, final), context.recipe.evaluate)
    (context.out / "metrics.json").write_text(json.dumps(result.metrics, indent=1, sort_keys=True) + "\n")
    result.per_user.write_parquet(context.out / "per_user.parquet", compression="zstd")
    return Outcome(rows=result.per_user.height, report=result.metrics)


def _vectors(context: StageContext, stage: str) -> "Representations":
    from safetensors.torch import load_file

    from darec.model.interactions import Representations

    vectors = load_file(context.input(stage, "embeddings.safetensors"))
    return Representations.join(vectors["user"], vectors["item"])


def _interactions(context: StageContext, final: "Representations") -> "Interactions":
    from darec.artifacts.tables import read_table
    from darec.model.interactions import Interactions, Pairs
    from schemas.tables import SPLIT_PART

    parts = (Pairs.of_table(read_table(context.input("split", part), SPLIT_PART)) for part in _PARTS)
    return Interactions(final.n_users, len(final.item), *parts)


STAGE = Stage(
    name="evaluate",
    version=1,
    outputs=("metrics.json", "per_user.parquet"),
    inputs=_inputs,
    config=_config,
    run=_run,
)
