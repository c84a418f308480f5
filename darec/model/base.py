"""The base class of backbones, which turn the input rows of all nodes into their final representations.

`darec.training.model` makes the input rows (id embeddings, text, masks) in the same way for every backbone. A new
backbone is one config class in `schemas.backbones` and one file here, which is imported in `darec.model.backbones`.
"""

from torch import Tensor, nn

from darec.common.interactions import Batch, Representations
from darec.common.registry import Registry
from darec.model.propagation import Adjacency


class Backbone(nn.Module):
    """Base class of all backbones.

    Learnt values in addition to the input rows are parameters; other state that a resumed run needs is a buffer.
    """

    own_ranking_loss = False
    """Whether `losses` includes the ranking loss, so that the trainer does not add one."""

    def __init__(self, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__()
        self.adjacency = adjacency
        self.n_users = n_users
        self.dim = dim

    @property
    def out_dim(self) -> int:
        """Width of the final representations."""
        return self.dim

    def start_epoch(self, epoch: int) -> bool:
        """Called before each epoch (the first is 0), also after a resume.

        Returns whether the steps of this epoch differ from those before it: in their operations, or in numbers that
        the host computes.
        """
        return False

    def forward(self, nodes: Tensor) -> Tensor:
        """Final representations [N, out_dim] from input rows [N, dim].

        If `self.training`, it may drop edges or add noise (from torch's global generator); otherwise it is a pure
        function of its input.
        """
        raise NotImplementedError

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """Additional loss terms by name, already weighted. Called once after each `forward` in training.

        Args:
            nodes: the input of `forward`.
            final: its output, normalised to unit length if scores are cosines.
            batch: the train pairs of the step.
        """
        return {}


BACKBONES: Registry[Backbone] = Registry("backbone")
