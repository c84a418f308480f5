"""The base class of alignment objectives, which bring text vectors into the training of any backbone.

It may change the input rows before propagation, and it may add terms to the loss. A new objective is one config class
in `schemas.alignment` and one file here, whose class is registered and imported in `darec.alignment`.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from darec.common.column_split import UNSPLIT, ColumnSplit
from darec.common.interactions import Batch, Interactions, Representations
from darec.common.registry import Registry
from darec.model.propagation import Adjacency


@dataclass(frozen=True)
class Setting:
    """The parts of a training run that an objective may use."""

    text: Representations
    """The text vectors of all nodes, [N, d_L]; [N, 0] if no objective needs text."""
    interactions: Interactions
    adjacency: Adjacency
    """The weighted train graph."""
    dim: int
    """Width of the input rows."""
    out_dim: int
    """Width of the backbone's final representations, all columns."""
    fixed: bool = False
    """Whether a step must not synchronise with the device: no shape depends on values, and no value is read."""
    split: ColumnSplit = UNSPLIT
    """The columns of input rows and final representations that this process holds."""


class Objective(nn.Module):
    """Base class of all objectives.

    Learnt values are parameters; other state that a resumed run needs is a buffer.
    """

    def start_epoch(self, epoch: int) -> bool:
        """Called before each epoch (the first is 0), also after a resume. Use it for weights that follow a schedule.

        Returns whether the steps of this epoch differ from those before it: in their operations, or in numbers that
        the host computes, such as these weights.
        """
        return False

    def start_step(self, step: int) -> int:
        """Called before each step (the first is 0). Returns the kind of the step: steps of one kind have the same
        operations, so that one recording of them can be replayed.

        Random numbers and other values that the step reads may be prepared here, in tensors that stay the same.
        """
        return 0

    def inputs(self, nodes: Tensor) -> Tensor:
        """Returns the input rows [N, dim] of the backbone in place of `nodes`, in training and inference.

        In training it may draw from torch's global generator; `forward` follows in the same step.
        """
        return nodes

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """Returns loss terms by name, already weighted. The trainer adds and logs them unchanged.

        `final` may have only some of the columns (`final.split`): scores are `final.split.total` of inner products, and
        complete rows are `final.split.whole` of rows.
        """
        return {}


OBJECTIVES: Registry[Objective] = Registry("objective")


def mlp(widths: list[int], activation: type[nn.Module] = nn.LeakyReLU) -> nn.Sequential:
    """Linear layers of the given widths with an activation between them, Xavier-uniform weights, zero biases."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])
