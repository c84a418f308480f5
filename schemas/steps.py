"""The settings of a training step that follow from the number of train pairs."""

from dataclasses import dataclass

from schemas.training import TrainConfig

_MANY_PAIRS = 1_000_000  # number of pairs up to which the configured settings are used
_STEPS = 256  # maximum number of steps per epoch above that


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
