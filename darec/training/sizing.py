"""Settings that depend on the size of the data: those of a step, and the number of users in validation."""

from dataclasses import dataclass

import torch

from darec.common.interactions import Interactions, Pairs
from schemas.training import TrainConfig

_MANY_PAIRS = 1_000_000  # number of pairs up to which the configured batch size is used
_STEPS = 128  # maximum number of steps per epoch above that
_MOST_SCORES = 3_000_000_000  # maximum number of user-item pairs that validation ranks
_FEWEST_USERS = 2000


@dataclass(frozen=True)
class StepSettings:
    """The settings of a step."""

    batch_size: int
    learning_rate: float
    l2: float


def step_settings(config: TrainConfig, pairs: int) -> StepSettings:
    """The settings of a step for this number of train pairs.

    A larger batch has less noise in its gradient, so Adam's learning rate is multiplied by the square root of its
    growth (Malladi et al., NeurIPS 2022). The ranking loss is a mean over pairs, so the more users and items there are,
    the less of its gradient a row gets, but the penalty of a row stays the same: it has to become smaller by as much,
    or it drives all rows to zero.
    """
    if config.batch_growth == "none" or pairs <= _MANY_PAIRS:
        return StepSettings(config.batch_size, config.learning_rate, config.l2)
    least = -(-pairs // _STEPS)
    size = max(config.batch_size, 1 << (least - 1).bit_length())
    rate = config.learning_rate * (size / config.batch_size) ** 0.5
    return StepSettings(size, rate, config.l2 * _MANY_PAIRS / pairs)


def validation_pairs(config: TrainConfig, data: Interactions) -> tuple[Pairs, bool]:
    """The validation pairs of the users to rank for, and whether they are a sample."""
    users = torch.unique(data.val.users)
    wanted = config.validation_users
    if wanted == "auto":
        wanted = max(_MOST_SCORES // max(data.n_items, 1), _FEWEST_USERS)
    if not wanted or len(users) <= wanted:
        return data.val, False
    chosen = users[torch.linspace(0, len(users) - 1, wanted, dtype=torch.float64, device=users.device).long()]
    inside = torch.isin(data.val.users, chosen)
    return Pairs(data.val.users[inside], data.val.items[inside]), True
