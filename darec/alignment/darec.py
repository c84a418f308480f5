"""DaRec (Yang et al., ICDE 2025, arXiv 2408.08231): the structure of a shared part is aligned, a specific part is not.

Both representations of a node, the backbone's (C) and the text's (L), are projected to a shared and a specific part.
Four terms: L_or and L_uni (on the specific parts), L_glo and L_loc (on the shared parts); equations in `darec.losses`.
"""

import torch
from torch import Tensor, nn

from darec import clustering, losses
from darec.alignment.base import Objective, mlp
from darec.interactions import Batch, Representations
from schemas.alignment import DaRecConfig

_ACTIVATIONS = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
_CLUSTERED_ROWS = 2_048  # k-means looks at so many rows of a side at most


class DaRec(Objective):
    """All four terms over a sample of nodes drawn in each step."""

    cf_centres: Tensor
    text_centres: Tensor

    def __init__(self, config: DaRecConfig, text: Representations, out_dim: int) -> None:
        super().__init__()
        self.config, self.text = config, text
        widths = [config.width] * config.depth
        activation = _ACTIVATIONS[config.activation]
        self.cf_shared, self.cf_specific = (mlp([out_dim, *widths], activation) for _ in range(2))
        self.text_shared, self.text_specific = (mlp([text.dim, *widths], activation) for _ in range(2))
        nodes, users = len(text.nodes), text.n_users
        self.sides = [(0, nodes)] if config.sides == "joint" else [(0, users), (users, nodes)]
        self.register_buffer("cf_centres", torch.zeros(len(self.sides), config.centres, config.width))
        self.register_buffer("text_centres", torch.zeros(len(self.sides), config.centres, config.width))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.scale = 1.0

    def start_epoch(self, epoch: int) -> None:
        """The warm-up of the weight."""
        self.scale = min(1.0, (epoch + 1) / self.config.warmup_epochs) if self.config.warmup_epochs else 1.0

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """The four terms, each the mean over sides."""
        nodes = final.nodes if self.config.gradient_to_backbone else final.nodes.detach()
        if self.config.weights.local_structure and int(self.step) % self.config.recluster_steps == 0:
            self._recluster(nodes)
        self.step += 1
        weighted: dict[str, Tensor] = {}
        for side in range(len(self.sides)):
            for name, value in self._side(side, nodes, batch, final.n_users).items():
                weighted[name] = weighted.get(name, 0) + value / len(self.sides)
        return weighted

    def _side(self, side: int, nodes: Tensor, batch: Batch, n_users: int) -> dict[str, Tensor]:
        weights, rows = self.config.weights, self._sample(side, batch, n_users)
        cf, text = nodes.index_select(0, rows), self.text.nodes.index_select(0, rows)
        cf_shared, text_shared = self.cf_shared(cf), self.text_shared(text)
        terms: dict[str, Tensor] = {}
        if weights.orthogonality or weights.uniformity:
            cf_specific, text_specific = self.cf_specific(cf), self.text_specific(text)
        if weights.orthogonality:
            gap = losses.orthogonality(cf_specific, cf_shared) + losses.orthogonality(text_specific, text_shared)
            terms["darec/orthogonality"] = weights.orthogonality * gap
        if weights.uniformity:
            gap = losses.uniformity(cf_specific) + losses.uniformity(text_specific)
            terms["darec/uniformity"] = weights.uniformity * gap
        if weights.global_structure:
            gap = losses.structure_gap(cf_shared, text_shared, self.config.similarity)
            terms["darec/global"] = weights.global_structure * gap
        if weights.local_structure:
            terms["darec/local"] = weights.local_structure * self._local(side, cf_shared, text_shared)
        return {name: self.config.weight * self.scale * value for name, value in terms.items()}

    def _sample(self, side: int, batch: Batch, n_users: int) -> Tensor:
        """At most `sample` distinct node numbers of a side."""
        first, end = self.sides[side]
        if self.config.sample_from == "uniform":
            return torch.unique(torch.randint(first, end, (self.config.sample,), device=batch.users.device))
        nodes = torch.unique(torch.cat([batch.users, batch.items + n_users]))
        nodes = nodes[(nodes >= first) & (nodes < end)]
        return nodes[torch.randperm(len(nodes), device=nodes.device)[: self.config.sample]]

    def _local(self, side: int, cf_shared: Tensor, text_shared: Tensor) -> Tensor:
        """L_loc over the centres of the sample: means of the rows nearest to each of the last run's centres."""
        cf = clustering.means(cf_shared, *self._labels(cf_shared, self.cf_centres[side]))
        text = clustering.means(text_shared, *self._labels(text_shared, self.text_centres[side]))
        gap = losses.centre_matrix_gap if self.config.local_loss == "matrix" else losses.centre_distance
        return gap(cf, text)

    @staticmethod
    def _labels(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        return clustering.nearest(rows.detach(), centres), centres

    @torch.no_grad()
    def _recluster(self, nodes: Tensor) -> None:
        """k-means on both shared parts, then the text's centres are put in the order of their partners."""
        config = self.config
        for side, (first, end) in enumerate(self.sides):
            rows = torch.randperm(end - first, device=nodes.device)[:_CLUSTERED_ROWS] + first
            cf, text = self.cf_shared(nodes[rows]), self.text_shared(self.text.nodes[rows])
            if int(self.step) == 0:
                self.cf_centres[side] = clustering.spread(cf, config.centres)
                self.text_centres[side] = clustering.spread(text, config.centres)
            cf_centres = clustering.kmeans(cf, self.cf_centres[side], config.kmeans_iterations)
            text_centres = clustering.kmeans(text, self.text_centres[side], config.kmeans_iterations)
            self.cf_centres[side] = cf_centres
            self.text_centres[side] = text_centres[clustering.match(cf_centres, text_centres, config.matching)]
