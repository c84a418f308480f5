"""Chooses training settings by successive halving on validation (Jamieson and Talwalkar, AISTATS 2016)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.common.interactions import Interactions, Representations
from darec.common.recipes import configure
from darec.model.propagation import Adjacency
from darec.training.run import train
from schemas.alignment import KARConfig
from schemas.search import SearchConfig
from schemas.training import TrainConfig

FACTORS = (1.0, 0.25, 0.0625, 0.0)
"""Factors for the weights of the objectives, used if the recipe names no candidates."""

_METRIC = "recall@20"


@dataclass(frozen=True)
class Round:
    """The result of one round."""

    epochs: int
    """Number of epochs of each candidate so far."""
    recalls: dict[str, float]
    """The best validation Recall@20 of each candidate."""


def candidates(config: SearchConfig, settings: TrainConfig) -> dict[str, TrainConfig]:
    """The settings to choose from, by name, in the order of preference among equals.

    Raises:
        UserError: overrides that give invalid settings, or that need text while `settings` do not.
    """
    if not config.candidates:
        return {f"weights x {factor:g}": _scaled(settings, factor) for factor in FACTORS}

    found = {}
    for name, overrides in config.candidates.items():
        where = f"search.candidates.{name}"
        found[name] = configure(TrainConfig, settings.model_dump(mode="json"), overrides, where=where)
        if found[name].needs_text and not settings.needs_text:
            hint = "let `train` use text, and name a candidate without"
            raise UserError("the candidate needs text vectors and `train` does not", where=where, hint=hint)

    return found


def _scaled(settings: TrainConfig, factor: float) -> TrainConfig:
    """The settings with the weights of all objectives multiplied by `factor`; KAR has none."""
    scaled = [
        each if isinstance(each, KARConfig) else each.model_copy(update={"weight": factor * each.weight})
        for each in settings.alignment
    ]
    return settings.model_copy(update={"alignment": tuple(scaled)})


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
    choice depend on the machine.
    """
    rounds, alive, epochs, started = list[Round](), list(among), config.epochs, time.monotonic()
    while True:
        recalls = {}
        for name in alive:
            settings, checkpoint = among[name], folder / f"{digest(name)[-16:]}.safetensors"
            given = text if settings.needs_text else None
            trained = train(settings, interactions, given, adjacency=adjacency, last_epoch=epochs, resume=checkpoint)
            recalls[name] = trained.validation.get(_METRIC, 0.0)
        rounds.append(Round(epochs, recalls))

        ranked = sorted(alive, key=lambda name: -recalls[name])  # stable: the first of equal candidates
        alive = ranked[: -(-len(ranked) // 2)]
        finished = all(among[name].epochs <= epochs for name in alive)
        if len(alive) == 1 or finished or time.monotonic() - started > 60 * config.minutes:
            return ranked[0], rounds
        epochs *= 2
