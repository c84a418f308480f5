"""LightGCN (He et al., SIGIR 2020): E = sum_l A^l E_0, with the normalised adjacency A."""

from torch import Tensor

from darec.model.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency, power_sum
from schemas.backbones import LayersConfig, LightGCNConfig


@BACKBONES.register(LightGCNConfig)
class LightGCN(Backbone):
    """Propagation without weights or activations."""

    def __init__(self, config: LightGCNConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        by_degree = self.config.edge_sampling == "degree"
        adjacency = self.adjacency.drop(self.config.edge_keep, by_degree) if self.training else self.adjacency
        if self.config.input_layer:
            return propagate(adjacency, nodes, self.config)
        total = power_sum(adjacency, nodes, self.config.layers, input_layer=False)
        return total if self.config.combine == "sum" else total / self.config.layers


def propagate(adjacency: Adjacency, nodes: Tensor, config: LayersConfig) -> Tensor:
    """LightGCN's sum or mean of layers 0 to `config.layers`, [N, d] -> [N, d]."""
    total = power_sum(adjacency, nodes, config.layers)
    return total if config.combine == "sum" else total / (config.layers + 1)
