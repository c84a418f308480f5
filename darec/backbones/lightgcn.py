"""LightGCN (He et al., SIGIR 2020): E = sum_l A^l E_0, with the normalised adjacency A."""

from torch import Tensor

from darec.backbones.base import Backbone
from darec.propagation import Adjacency, power_sum
from schemas.backbones import LightGCNConfig


class LightGCN(Backbone):
    """Propagation without weights or activations."""

    def __init__(self, config: LightGCNConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        adjacency = self.adjacency.drop(self.config.edge_keep) if self.training else self.adjacency
        total = power_sum(adjacency, nodes, self.config.layers)
        return total if self.config.combine == "sum" else total / (self.config.layers + 1)
