"""The effect of larger batches on recall and CPU time: LightGCN on logs of users with several interests, until early
stopping.

The logs of `benchmarks.scale` have one group per user, which any model finds. Here a user has four topics of a hundred
items each, so that recall differs between models.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.scale import shown
from benchmarks.tables import markdown
from darec.common.interactions import Interactions, Pairs
from darec.training import train
from darec.training.sizing import validation_pairs
from darec.training.trainer import validate
from schemas.steps import step_settings
from schemas.training import TrainConfig

_DRAWN, _TRAIN, _VALIDATION = 62, 40, 10  # interactions per user; a fifth of the draws are duplicates
_TOPIC = 100  # items per topic
_MIXTURE = (0.5, 0.25, 0.15, 0.1)  # topics per user
_ANY = 0.1  # fraction of interactions with items of arbitrary topics
_USER_SKEW, _ITEM_SKEW = 1.5, 2.5  # as in `benchmarks.scale`


@dataclass(frozen=True)
class Outcome:
    """The result of one batch size."""

    pairs: int
    """Train pairs."""
    steps: int
    """Number of steps per epoch."""
    epochs: int
    best_epoch: int
    recall: float
    """Validation Recall@20 of the best epoch."""
    epoch_cpu_seconds: float
    """CPU seconds of an epoch without validation, over all threads."""


def mixed_tastes(pairs: int, seed: int = 0) -> Interactions:
    """Interactions with about `pairs` train pairs, and a quarter as many for validation; none for test."""
    users = items = max(pairs // _TRAIN, _TOPIC)
    topics, count = items // _TOPIC, users * _DRAWN
    rng = np.random.default_rng(seed)
    likes = rng.integers(topics, size=(users, len(_MIXTURE)), dtype=np.int32)

    user = (users * rng.random(count) ** _USER_SKEW).astype(np.int64)
    topic = likes[user, rng.choice(len(_MIXTURE), size=count, p=_MIXTURE)]
    topic = np.where(rng.random(count) < _ANY, rng.integers(topics, size=count, dtype=np.int32), topic)
    item = topic + topics * (_TOPIC * rng.random(count) ** _ITEM_SKEW).astype(np.int64)

    keys = rng.permutation(np.unique(user * items + item))
    cut = len(keys) * _TRAIN // (_TRAIN + _VALIDATION)
    parts = [Pairs.of(part // items, part % items) for part in (keys[:cut], keys[cut:], keys[:0])]
    return Interactions(users, items, *parts)


def compare(
    folder: Path, pairs: int, factors: Sequence[int], epochs: int, exponent: float = 0.5, width: int = 32
) -> Iterator[tuple[int, Outcome]]:
    """Trains once for each factor and yields it with its outcome; outcomes of earlier calls are read from `folder`.

    A killed run resumes from its checkpoint.

    Args:
        folder: the folder of outcomes, histories and checkpoints.
        pairs: train pairs.
        factors: multiples of the batch size of the default recipe; the smallest is what others are compared with.
        epochs: maximum number of epochs; early stopping applies.
        exponent: the learning rate grows with this power of the factor.
        width: number of columns of the vectors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = mixed_tastes(pairs)
    for factor in factors:
        name = f"{shown(pairs)}-{width}-x{factor}-{round(100 * exponent)}-{epochs}"
        path = folder / f"{name}.json"
        if not path.exists():
            plain = TrainConfig(alignment=(), dim=width, epochs=epochs, log_steps=0)
            path.write_text(json.dumps(asdict(_outcome(folder / name, data, plain, factor, exponent))))
        yield factor, Outcome(**json.loads(path.read_text()))


def _outcome(path: Path, data: Interactions, plain: TrainConfig, factor: int, exponent: float) -> Outcome:
    often = {"eval_every": 1, "checkpoint_every": 1, "validation_users": 10_000}
    grown = {"batch_size": plain.batch_size * factor, "learning_rate": plain.learning_rate * factor**exponent}
    same = {"batch_growth": "none", "l2": step_settings(plain, len(data.train)).l2}  # the penalty of this size for all
    config = plain.model_copy(update=often | grown | same)

    costs, last = list[float](), time.process_time()

    def note(epoch: int, values: dict[str, float]) -> None:
        nonlocal last
        costs.append(time.process_time() - last)
        with path.with_suffix(".trace").open("a") as trace:
            print(epoch, f"{values['recall@20']:.4f}", f"{costs[-1]:.1f}", file=trace)
        last = time.process_time()

    trained = train(config, data, resume=path.with_suffix(".safetensors"), listener=note)
    last = time.process_time()
    validate(trained.final, data, validation_pairs(config, data)[0])
    validation = time.process_time() - last
    steps = -(-len(data.train) // config.batch_size)
    recall, cpu = trained.validation["recall@20"], median(costs) - validation

    return Outcome(len(data.train), steps, trained.epochs, trained.best_epoch, recall, round(cpu, 1))


def table(outcomes: Mapping[int, Outcome]) -> str:
    """Outcomes by factor in Markdown, each compared with the smallest factor."""
    head = ["train pairs", "batch", "steps an epoch", "epochs, best", "Recall@20", "CPU s an epoch"]
    rows, first = list[list[str]](), min(outcomes)
    for factor, each in outcomes.items():
        change = f" ({each.recall / outcomes[first].recall - 1:+.1%})" if factor != first else ""
        epochs = f"{each.epochs}, {each.best_epoch}"
        cells = [f"{each.pairs:,}", f"x {factor}", f"{each.steps:,}", epochs, f"{each.recall:.4f}{change}"]
        rows.append([*cells, f"{each.epoch_cpu_seconds:,.1f}"])
    return markdown(head, rows)
