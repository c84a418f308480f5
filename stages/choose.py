"""choose: the training settings that are best on validation, searched again only when the data has changed
significantly.
"""

from dataclasses import asdict
from typing import Any

from darec.artifacts.files import CHOICE, EDGES
from darec.artifacts.store import Store
from darec.common.hashing import digest
from darec.training import Adjacency, search
from schemas.reports import ChoiceReport
from schemas.search import SearchConfig
from schemas.section import hashed
from schemas.training import TrainConfig
from stages.contract import Outcome, StageContext
from stages.train import judged_interactions, text_vectors


def run(context: StageContext) -> Outcome[ChoiceReport]:
    """Writes the name of the candidate: that of the newest choice, or of a new search."""
    config: SearchConfig = context.config["search"]
    settings: TrainConfig = context.config["train"]
    among = search.candidates(config, settings)
    interactions = judged_interactions(context)
    pairs, question = len(interactions.train), digest(hashed({"search": config, "train": settings}))

    kept = _kept(context, question, pairs, config.growth)
    if kept is not None:
        context.write(CHOICE, kept)
        return Outcome(len(among), ChoiceReport(name=kept["name"], kept=True))

    text = text_vectors(context) if settings.needs_text else None
    adjacency = Adjacency.of_table(context.read(EDGES), interactions.n_users, interactions.n_items)
    name, rounds = search.choose(among, interactions, text, adjacency, config, context.work)
    context.write(CHOICE, {"name": name, "question": question, "interactions": pairs})
    return Outcome(len(among), ChoiceReport(name=name, rounds=tuple(asdict(each) for each in rounds)))


def _kept(context: StageContext, question: str, pairs: int, growth: float) -> dict[str, Any] | None:
    """The newest choice, if it was made with the same settings and a similar number of train interactions.

    Like the release of a warm start, it is not part of the key; the report states that it was kept.
    """
    newest = Store(context.store).latest(CHOICE.stage)
    if newest is None or newest.key == context.work.name:  # from the same data: this stage was forced to run again
        return None
    choice = CHOICE.of(newest)
    changed = abs(pairs - choice["interactions"]) > growth * choice["interactions"]
    return None if changed or choice["question"] != question else choice
