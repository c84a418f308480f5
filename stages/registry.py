"""Every stage, in the order of the pipeline, and which of them a recipe needs.

Importing this must stay cheap (no torch, vllm, faiss): `darec status` pays for it.
"""

import difflib

from darec.common.errors import UserError
from schemas.recipe import Recipe
from stages import (
    embed,
    evaluate,
    export,
    graph,
    ingest,
    profile_items,
    profile_users,
    publish,
    split,
    train,
)
from stages.contract import Stage

SEMANTIC: tuple[Stage, ...] = (ingest.STAGE, split.STAGE, profile_items.STAGE, profile_users.STAGE, embed.STAGE)
COLLABORATIVE: tuple[Stage, ...] = (
    graph.STAGE,
    train.REFERENCE_STAGE,
    train.STAGE,
    evaluate.STAGE,
    export.STAGE,
    publish.STAGE,
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in (*SEMANTIC, *COLLABORATIVE)}


def stage_named(name: str) -> Stage:
    """The stage of that name. Raises UserError naming the nearest one."""
    if name in STAGES:
        return STAGES[name]
    nearest = difflib.get_close_matches(name, STAGES, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(STAGES)}"
    raise UserError(f"there is no stage {name!r}", hint=hint)


def upstream(target: str, recipe: Recipe) -> set[str]:
    """`target` and every stage it needs, directly or not, under `recipe`."""
    names = {target}
    for name in reversed(STAGES):
        if name in names:
            names |= {source.stage for source in STAGES[name].inputs(recipe)}
    return names


def needed(recipe: Recipe, target: str = "publish") -> list[Stage]:
    """The stages that `target` needs under `recipe`, in order: a recipe without text needs no profiles."""
    names = upstream(target, recipe)
    return [stage for stage in STAGES.values() if stage.name in names]
