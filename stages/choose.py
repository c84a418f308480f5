"""choose: the training settings that are best on validation, searched again only when the data, the settings or the
texts have changed significantly.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.artifacts.files import CHOICE, EDGES, ITEM_VOCABULARY, USER_VOCABULARY
from darec.artifacts.store import Store
from darec.common.hashing import digest
from darec.common.id_hashing import hash_ids, mix
from darec.common.interactions import Pairs
from darec.training import Adjacency, search
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.reports import ChoiceReport
from schemas.search import SearchConfig
from schemas.section import hashed
from schemas.training import TrainConfig
from stages.contract import Outcome, StageContext
from stages.declarations import EMBED, PROFILE_ITEMS, PROFILE_USERS
from stages.train import judged_interactions, text_vectors

_SKETCH = 1024  # hashes of train pairs that are kept: the fraction in common has a standard error of at most 1.6%


def run(context: StageContext) -> Outcome[ChoiceReport]:
    """Writes the name of the candidate: that of the newest choice, or of a new search."""
    config: SearchConfig = context.config["search"]
    settings: TrainConfig = context.config["train"]
    all_items = context.recipe.split.items == "all"
    among = search.candidates(config, settings, all_items)
    interactions = judged_interactions(context)
    # `growth` decides when a search is repeated, and not what it finds.
    search_settings = config.model_copy(update={"growth": SearchConfig().growth})
    question = hashed({"search": search_settings, "train": settings})
    asked = {
        "question": digest(question | {"items": "all"} if all_items else question),
        "texts": _texts(context.recipe),
        "interactions": len(interactions.train),
        "sketch": _sketch(context, interactions.train),
    }

    earlier, why = _earlier(context, asked, config.growth)
    if earlier:
        context.write(CHOICE, earlier)
        return Outcome(
            len(among), ChoiceReport(name=earlier["name"], kept=True, rounds=tuple(earlier.get("rounds", ())))
        )

    text = text_vectors(context) if settings.needs_text else None
    adjacency = Adjacency.of_table(context.read(EDGES), interactions.n_users, interactions.n_items)
    name, found = search.choose(among, interactions, text, adjacency, config, context.work)
    rounds = tuple(asdict(each) for each in found)
    context.write(CHOICE, asked | {"name": name, "rounds": rounds})
    return Outcome(len(among), ChoiceReport(name=name, why=why, rounds=rounds))


def _earlier(context: StageContext, asked: Mapping[str, Any], growth: float) -> tuple[Mapping[str, Any] | None, str]:
    """The newest choice that can be kept, or None and why the search is repeated.

    Other recipes of the store, and runs of this one on other data, have choices of their own. Like the release of a
    warm start, an earlier choice is not part of the key; the report states that it was kept.
    """
    reasons: list[str] = []
    for artifact in Store(context.store).artifacts(CHOICE.stage):
        if artifact.damage() is not None:
            continue
        if artifact.key == context.work.name:  # from the same data: this stage was forced to run again
            return None, "it was run again on the same data"
        choice = CHOICE.of(artifact)
        if choice["question"] != asked["question"]:
            continue
        why = _changed(choice, asked, growth)
        if not why:
            return choice, ""
        reasons.append(why)
    return None, reasons[0] if reasons else "the first search with these settings"


def _changed(earlier: Mapping[str, Any], asked: Mapping[str, Any], growth: float) -> str:
    """Why this choice cannot be kept; an empty string if it can."""
    if earlier.get("texts", asked["texts"]) != asked["texts"]:  # choices of version 0.1 have neither texts nor sketch
        return "the prompts or the models of the texts have changed"

    before, now = earlier["interactions"], asked["interactions"]
    if abs(now - before) > growth * before:
        return f"{now:,} train interactions instead of {before:,}"
    gone = 1 - _kept_share(earlier["sketch"], asked["sketch"]) if "sketch" in earlier else 0.0
    return f"{gone:.0%} of the train interactions of the last search are missing" if gone > growth else ""


def _texts(recipe: Recipe) -> str:
    """Identifies how texts and their vectors are made, but not the rows; empty for a recipe without text."""
    if not recipe.train.needs_text:
        return ""
    stages = (PROFILE_ITEMS, PROFILE_USERS, EMBED)
    return digest([[hashed(dict(stage.config(recipe))), stage.fingerprint(recipe)] for stage in stages])


def _sketch(context: StageContext, train: Pairs) -> list[int]:
    """The smallest hashes of the pairs of external ids, ascending: a uniform sample of the pairs."""
    users, items = (
        hash_ids(pl.read_parquet(context.path(file), columns=[column])[column])
        for file, column in ((USER_VOCABULARY, c.USER), (ITEM_VOCABULARY, c.ITEM))
    )
    hashes: NDArray[np.uint64] = np.unique(mix(users[train.users.numpy()] * np.uint64(3) + items[train.items.numpy()]))
    return hashes[:_SKETCH].tolist()


def _kept_share(before: list[int], now: list[int]) -> float:
    """The fraction of the earlier pairs that are still there, estimated from the hashes that both sketches cover."""
    covered = [sketch[-1] for sketch in (before, now) if len(sketch) == _SKETCH]
    comparable = [each for each in before if not covered or each <= min(covered)]
    return len(set(comparable) & set(now)) / len(comparable) if comparable else 1.0
