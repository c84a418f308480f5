"""What a backbone is: a rule that turns the input rows of all nodes into their final representations.

The input rows (id embeddings, text, masks) are not its business: `darec.training.model` makes them, the same for every
backbone. A new backbone is one config class in `schemas.backbones` and one file here, whose class is registered and
imported in `darec.backbones`.
"""

from torch import Tensor, nn

from darec.common.registry import Registry
from darec.model.interactions import Batch, Representations
from darec.model.propagation import Adjacency


class Backbone(nn.Module):
    """Base of all backbones. Whatever it learns beyond the input rows are its parameters; state to resume, buffers."""

    own_ranking_loss = False
    """True where `losses` brings the ranking loss itself; the trainer then adds none."""

    def __init__(self, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__()
        self.adjacency = adjacency
        self.n_users = n_users
        self.dim = dim

    @property
    def out_dim(self) -> int:
        """Width of the final representations."""
        return self.dim

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch (the first is 0), after a resume too."""

    def forward(self, nodes: Tensor) -> Tensor:
        """Final representations [N, out_dim] from input rows [N, dim].

        With `self.training` it may drop edges or add noise (from torch's global generator); without, it is a pure
        function of its input.
        """
        raise NotImplementedError

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """The backbone's own further terms, weighted, by name; called once after each `forward` in training.

        `nodes` is what `forward` was given, `final` what came out (at unit length where scores are cosines).
        """
        return {}


BACKBONES: Registry[Backbone] = Registry("backbone")
