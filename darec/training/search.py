"""Chooses training settings by successive halving on validation (Jamieson and Talwalkar, AISTATS 2016)."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.common.interactions import Interactions, Representations
from darec.common.recipes import configure
from darec.model.propagation import Adjacency
from darec.training.run import train
from darec.training.trainer import DivergedError
from schemas.alignment import AlignmentConfig, KARConfig, LinearTeacherConfig
from schemas.search import SearchConfig
from schemas.training import TrainConfig

FACTORS = (1.0, 0.25, 0.0625, 0.0)
"""Factors for the weights of the objectives, used if the recipe names no candidates."""
WITHOUT_TEXT = "without text"
"""The candidate that is the reference of the evaluation, used likewise."""

DIVERGED = -1.0
"""The recall of a candidate whose training diverged."""

_logger = logging.getLogger(__name__)

_METRIC = "recall@20"


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    epochs: int
    """Number of epochs of each candidate so far."""
    recalls: dict[str, float]
    """The best validation Recall@20 of each candidate that was trained."""


def candidates(config: SearchConfig, settings: TrainConfig, all_items: bool = False) -> dict[str, TrainConfig]:
    """The settings to choose from, by name, in the order of preference among equals.

    Args:
        config: of the search.
        settings: section `train` of the recipe.
        all_items: whether the release has items without interactions. Models that do not predict the vectors of such
            items from text are no candidates then.

    Raises:
        UserError: overrides that give invalid settings, or that need text or dislikes while `settings` do not.
    """
    if not config.candidates:
        found = _built_in(settings)
        return {name: each for name, each in found.items() if each.predicts_cold_rows or not all_items}

    found = {}
    for name, overrides in config.candidates.items():
        where = f"search.candidates.{name}"
        found[name] = configure(TrainConfig, settings.model_dump(mode="json"), overrides, where=where)
        if found[name].needs_text and not settings.needs_text:
            hint = "let `train` use text, and name a candidate without"
            raise UserError("the candidate needs text vectors and `train` does not", where=where, hint=hint)
        if found[name].dislikes != "ignore" and settings.dislikes == "ignore":
            hint = "set train.dislikes, and let a candidate ignore them"
            raise UserError("the candidate uses dislikes and `train` does not", where=where, hint=hint)
        if all_items and not found[name].predicts_cold_rows:
            hint = "let it use text and a cold_start, or set split.items to core"
            raise UserError("the candidate predicts no vectors of items without interactions", where=where, hint=hint)
        if not found[name].learns:
            hint = "set ranking_weight, or the weight of an objective"
            raise UserError("the candidate has no loss", where=where, hint=hint)

    return found


def _built_in(settings: TrainConfig) -> dict[str, TrainConfig]:
    """Distinct settings that can be trained: the weights of the objectives times `FACTORS`, and no text at all."""
    among = {f"weights x {factor:g}": _scaled(settings, factor) for factor in FACTORS}
    if _learns_from_text(among["weights x 0"]):  # otherwise it is the model without text already
        among[WITHOUT_TEXT] = settings.without_text()

    found: dict[str, TrainConfig] = {}
    for name, each in among.items():
        if each.learns and each not in found.values():
            found[name] = each
    return found


def _scaled(settings: TrainConfig, factor: float) -> TrainConfig:
    """The settings with the weights of all objectives multiplied by `factor`. KAR has none, and a linear teacher in
    place of the ranking loss keeps its weight.
    """

    def scaled(each: AlignmentConfig) -> AlignmentConfig:
        ranks = isinstance(each, LinearTeacherConfig) and not settings.ranking_weight
        if isinstance(each, KARConfig) or ranks:
            return each
        return each.model_copy(update={"weight": factor * each.weight})

    return settings.model_copy(update={"alignment": tuple(scaled(each) for each in settings.alignment)})


def _learns_from_text(settings: TrainConfig) -> bool:
    """Whether text has any effect but on the rows of new users and items. An objective of weight 0 has none."""
    weighted = tuple(each for each in settings.alignment if getattr(each, "weight", 1))
    return settings.model_copy(update={"alignment": weighted}).needs_text


def choose(
    among: Mapping[str, TrainConfig],
    interactions: Interactions,
    text: Representations | None,
    adjacency: Adjacency,
    config: SearchConfig,
    folder: Path,
) -> tuple[str, list[Round]]:
    """The name of the best candidate on validation, and the rounds of the search.

    Candidates resume from checkpoints in `folder`, so that a killed search continues. Only `minutes` can make the
    choice depend on the machine. A candidate whose training diverges is the worst one. One candidate is not trained.

    Raises:
        DivergedError: every candidate diverges.
    """
    if len(among) == 1:
        return next(iter(among)), []

    rounds, alive, epochs = list[Round](), list(among), config.epochs
    deadline = time.monotonic() + 60 * config.minutes
    while True:

        def recall(name: str, epochs: int = epochs) -> float:
            settings, checkpoint = among[name], folder / f"{digest(name)[-16:]}.safetensors"
            given = text if settings.needs_text else None
            trained = train(settings, interactions, given, adjacency=adjacency, last_epoch=epochs, resume=checkpoint)
            return trained.validation.get(_METRIC, 0.0)

        recalls = _recalls(alive, recall, deadline)
        if rounds and len(recalls) < len(alive):  # an unfinished round compares nothing
            break
        rounds.append(Round(epochs, recalls))
        if max(recalls.values()) == DIVERGED:
            break

        ranked = sorted(recalls, key=lambda name: -recalls[name])  # stable: the first of equal candidates
        alive = ranked[: -(-len(ranked) // 2)]
        finished = all(among[name].epochs <= epochs for name in alive)
        if len(alive) == 1 or finished or time.monotonic() > deadline:
            break
        epochs *= 2

    return _best(rounds), rounds


def _best(rounds: list[Round]) -> str:
    """The best candidate of the last round in which one was trained that has not diverged by the end of the search."""
    diverged = {name for each in rounds for name, value in each.recalls.items() if value == DIVERGED}
    for each in reversed(rounds):
        left = {name: value for name, value in each.recalls.items() if name not in diverged}
        if left:
            return max(left, key=lambda name: left[name])
    names = ", ".join(rounds[0].recalls)
    hint = "lower the learning rates of the candidates, or set clip_norm"
    raise DivergedError(f"every candidate diverged: {names}", where="search", hint=hint)


def _recalls(names: list[str], recall: Callable[[str], float], deadline: float) -> dict[str, float]:
    """The recall of each candidate until no time is left, at least of the first; `DIVERGED` if training diverges."""
    found = dict[str, float]()
    for name in names:
        if found and time.monotonic() > deadline:
            _logger.warning(
                "search: no time for %d of %d candidates (search.minutes)", len(names) - len(found), len(names)
            )
            break
        try:
            found[name] = recall(name)
        except DivergedError as error:
            _logger.warning("search: %s: %s", name, error)
            found[name] = DIVERGED

    return found
