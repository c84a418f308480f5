"""DCCF (Ren et al., SIGIR 2023): propagation, global intents and two adaptive graphs, aligned by InfoNCE.

In each layer (RLMRec's version), with C the intents of the side (dim x K):
    near    Z = A E                          local, over the train graph
    intents R = softmax(E C) C^T             global (equation 6)
    two graphs with the edges of A, weighted (1 + cos) / 2 of their ends' rows in Z and in R, rows summing to 1
    (equations 8 and 9): G_Z E and G_R E
    E <- E + Z + R + G_Z E + G_R E           and the output is the sum of all layers' E.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from darec.common.interactions import Batch, Representations
from darec.model import losses
from darec.model.base import BACKBONES, Backbone
from darec.model.edges import Pattern, edge_scores, weighted_sum
from darec.model.propagation import Adjacency, product
from schemas.backbones import DCCFConfig

_Views = tuple[Tensor, Tensor, Tensor, Tensor]


@BACKBONES.register(DCCFConfig)
class DCCF(Backbone):
    """A contrastive loss aligns the four views of each layer on the batch's users and positive items."""

    def __init__(self, config: DCCFConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config
        self.pattern = Pattern.of(adjacency)
        self.user_intents, self.item_intents = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, config.intents))) for _ in range(2)
        )
        self._views: list[_Views] = []

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        views, total = [], nodes
        for _ in range(self.config.layers):
            views.append(self._layer(nodes))
            nodes = nodes + sum(views[-1])
            total = total + nodes
        self._views = views if self.training else []
        return total

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE of the near view with each other view, summed over layers (equations 11 to 13)."""
        users, items = torch.unique(batch.users), torch.unique(batch.items) + self.n_users
        total, temperature = final.nodes.new_zeros(()), self.config.temperature
        for near, *others in self._views:
            for other in others:
                for rows in (users, items):
                    match = other[rows]
                    total = total + losses.info_nce(near[rows], match, match, temperature, split=final.split)

        self._views = []
        return {"contrast": self.config.weight * total}

    def _layer(self, nodes: Tensor) -> _Views:
        near = product(self.adjacency, nodes)
        user, item = nodes[: self.n_users], nodes[self.n_users :]
        intents = torch.cat([_of_intents(user, self.user_intents), _of_intents(item, self.item_intents)])
        return near, intents, self._adaptive(near, nodes), self._adaptive(intents, nodes)

    def _adaptive(self, view: Tensor, nodes: Tensor) -> Tensor:
        unit = functional.normalize(view, dim=-1)
        weights = (1 + edge_scores(self.pattern, unit, unit)) / 2
        return weighted_sum(self.pattern, self.pattern.row_shares(weights), nodes)


def _of_intents(rows: Tensor, intents: Tensor) -> Tensor:
    return torch.softmax(rows @ intents, -1) @ intents.T
