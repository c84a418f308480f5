"""NGCF (Wang et al., SIGIR 2019): propagation with weights, affinity and an activation (equations 3 to 8)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from darec.model.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency, product
from schemas.backbones import NGCFConfig


@BACKBONES.register(NGCFConfig)
class NGCF(Backbone):
    """E_l+1 = LeakyReLU((A + 1) E_l W_1 + (A E_l * E_l) W_2); E_0 and the normalised E_l are concatenated."""

    def __init__(self, config: NGCFConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config
        self.messages, self.affinities = (nn.ModuleList(_linear(dim) for _ in range(config.layers)) for _ in range(2))

    @property
    def out_dim(self) -> int:
        """dim (layers + 1)."""
        return self.dim * (self.config.layers + 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim (layers + 1)]."""
        adjacency = self.adjacency.drop(self.config.edge_keep) if self.training else self.adjacency
        layers = [nodes]
        for message, affinity in zip(self.messages, self.affinities, strict=True):
            near = product(adjacency, nodes)
            nodes = functional.leaky_relu(message(near + nodes) + affinity(near * nodes), 0.2)
            nodes = functional.dropout(nodes, self.config.dropout, self.training)
            layers.append(functional.normalize(nodes, dim=-1))
        return torch.cat(layers, 1)


def _linear(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
