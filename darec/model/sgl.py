"""SGL (Wu et al., SIGIR 2021) with edge dropout: LightGCN with a contrastive loss between two random subgraphs."""

from torch import Tensor

from darec.common.interactions import Batch, Representations
from darec.model import losses
from darec.model.base import BACKBONES, Backbone
from darec.model.lightgcn import propagate
from darec.model.propagation import Adjacency
from schemas.backbones import SGLConfig


@BACKBONES.register(SGLConfig)
class SGL(Backbone):
    """The ranking loss uses the whole graph; InfoNCE (equations 9 to 11) uses the two subgraphs."""

    def __init__(self, config: SGLConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        self.config = config

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        return propagate(self.adjacency, nodes, self.config)

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """Users, positive items and (an option) negative items, each against the same nodes in the other subgraph."""
        config = self.config
        first, second = (
            Representations(propagate(self.adjacency.drop(config.edge_keep), nodes, config), self.n_users)
            for _ in range(2)
        )

        def contrast(side: str, rows: Tensor) -> Tensor:
            return losses.contrast_views(
                getattr(first, side), getattr(second, side), rows, config.temperature, config.negatives, final.split
            )

        total = contrast("user", batch.users) + contrast("item", batch.items)
        if config.contrast_negatives:
            total = total + contrast("item", batch.negatives)
        return {"contrast": config.weight * total}
