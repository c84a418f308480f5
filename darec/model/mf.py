"""Matrix factorisation (Koren et al., 2009; with BPR: Rendle et al., UAI 2009)."""

from torch import Tensor

from darec.model.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency
from schemas.backbones import MFConfig


@BACKBONES.register(MFConfig)
class MF(Backbone):
    """The input rows are the representations."""

    def __init__(self, config: MFConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> the same."""
        return nodes
