"""LR-GCCF (Chen et al., AAAI 2020): concatenated layers of linear propagation, with a self-loop at every node.

E = [E_0, S E_0, ..., S^L E_0], S = (D + 1)^-1/2 (A + 1) (D + 1)^-1/2. As in RLMRec's implementation, the layers have no
weight matrices, unlike in the paper. Inner products of the rows are sums of the layers' scores (the paper's residual
prediction).
"""

import torch
from torch import Tensor

from darec.model.base import BACKBONES, Backbone
from darec.model.propagation import Adjacency, product
from schemas.backbones import GCCFConfig


@BACKBONES.register(GCCFConfig)
class GCCF(Backbone):
    """Concatenated layers."""

    def __init__(self, config: GCCFConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency.with_self_loops(), n_users, dim)
        self.config = config

    @property
    def out_dim(self) -> int:
        """dim (layers + 1)."""
        return self.dim * (self.config.layers + 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim (layers + 1)]."""
        adjacency = self.adjacency.drop(self.config.edge_keep) if self.training else self.adjacency
        layers = [nodes]
        for _ in range(self.config.layers):
            layers.append(product(adjacency, layers[-1]))
        return torch.cat(layers, 1)
