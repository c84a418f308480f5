"""SimGCL (Yu et al., SIGIR 2022): LightGCN with a contrastive loss between two views with noise in every layer."""

import torch
from torch import Tensor

from darec.common.interactions import Batch, Representations
from darec.model import losses
from darec.model.base import BACKBONES, Backbone
from darec.model.lightgcn import propagate
from darec.model.propagation import Adjacency, product
from schemas.backbones import SimGCLConfig


@BACKBONES.register(SimGCLConfig)
class SimGCL(Backbone):
    """The ranking loss uses the clean graph; InfoNCE uses the two noisy views."""

    def __init__(self, config: SimGCLConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config
        self._clean: Tensor | None = None

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        clean = propagate(self.adjacency, nodes, self.config)
        self._clean = clean if self.training else None
        return clean

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """Users and positive items, each against the same nodes in the other view."""
        config, clean = self.config, self._clean
        assert clean is not None, "losses must be called after forward, in training"
        self._clean = None
        noise = self._views(nodes) - clean.detach().repeat(1, 2)
        first, second = (Representations(clean + part, self.n_users) for part in noise.chunk(2, 1))
        options = config.temperature, config.negatives, final.split
        users = losses.contrast_views(first.user, second.user, batch.users, *options)
        items = losses.contrast_views(first.item, second.item, batch.items, *options)

        return {"contrast": config.weight * (users + items)}

    @torch.no_grad()
    def _views(self, nodes: Tensor) -> Tensor:
        """Two noisy views, concatenated, [N, 2 dim].

        The noise depends on the rows only through their signs, so a view has the gradient of the clean representations.
        It is therefore attached to them, and the views are computed without gradients.
        """
        # The first layer, before noise, is common to both.
        layer = product(self.adjacency, nodes) if self.config.layers else nodes
        layer, total = layer.repeat(1, 2), nodes.repeat(1, 2)
        for depth in range(self.config.layers):
            layer = product(self.adjacency, layer) if depth else layer
            layer = layer + self._noise(layer)
            total = total + layer
        return total if self.config.combine == "sum" else total / (self.config.layers + 1)

    def _noise(self, rows: Tensor) -> Tensor:
        """Random vectors of norm `noise` in the orthant of each half row (equation 6), [N, 2 dim]."""
        drawn = torch.rand_like(rows).view(len(rows), 2, -1)
        length = torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
        return torch.copysign(drawn, rows.view_as(drawn)).mul_(self.config.noise / length).view_as(rows)
