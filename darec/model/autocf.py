"""AutoCF (Xia et al., WWW 2023): a graph auto-encoder that reconstructs masked subgraphs.

Every few steps, the nodes that agree most with their neighbourhoods are chosen as seeds (section 3.2), and the edges
around them are masked. The encoder propagates over the remaining edges (section 3.3); the decoder attends over the
remaining edges and over random pairs of the masked nodes. The ranking loss is part of the model: a full softmax of each
pair.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from darec.common.errors import UserError
from darec.common.interactions import Batch, Representations
from darec.model.base import BACKBONES, Backbone
from darec.model.edges import Pattern, edge_scores, weighted_sum
from darec.model.propagation import Adjacency
from darec.model.softmax import mean_log_sum_exp
from schemas.backbones import AutoCFConfig

_MAX_SCORE = 10.0  # attention scores are clipped to +- this before exp


@BACKBONES.register(AutoCFConfig)
class AutoCF(Backbone):
    """Encoder layers and one attention layer, summed."""

    own_ranking_loss = True

    def __init__(self, config: AutoCFConfig, adjacency: Adjacency, n_users: int, dim: int) -> None:
        super().__init__(adjacency, n_users, dim)
        if dim % config.heads:
            raise UserError(
                f"{config.heads} heads cannot share a width of {dim}",
                where="train.backbone.heads",
                hint="let train.dim be a multiple of it",
            )

        self.config = config
        self.pattern = Pattern.of(adjacency)
        self.query, self.key, self.value = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, dim))) for _ in range(3)
        )
        self._encoder, self._decoder = adjacency.matrix.values(), self.pattern
        self._age = 0
        self._agreement: Tensor | None = None

    def start_epoch(self, epoch: int) -> bool:
        """New masks are drawn in the first step of each epoch."""
        self._age = 0
        return True

    def forward(self, nodes: Tensor) -> Tensor:
        """[N, dim] -> [N, dim]."""
        if not self.training:
            return self._reconstruct(nodes, self.adjacency.matrix.values(), self.pattern)
        if self._age % self.config.mask_steps == 0:
            self._draw_masks(nodes)
        self._age += 1
        return self._reconstruct(nodes, self._encoder, self._decoder)

    def losses(self, nodes: Tensor, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """The full softmax of each pair, uniformity within a side, and, in steps with new masks, the agreement of
        nodes.
        """
        user, item = final.user, final.item
        users, counts = torch.unique(batch.users, return_counts=True)
        items = torch.unique(batch.items)
        scores = (user[batch.users] * item[batch.items]).sum(-1).mean()
        split = final.split
        spread = mean_log_sum_exp(user[users], user, split=split) + mean_log_sum_exp(item[items], item, split=split)
        terms = {
            "ranking": mean_log_sum_exp(user[users], item, counts, split) - scores,
            "contrast": self.config.weight * spread,
        }
        if self._agreement is not None:
            terms["agreement"] = functional.softplus(-self._agreement).mean()
            self._agreement = None

        return terms

    def _reconstruct(self, nodes: Tensor, encoder: Tensor, decoder: Pattern) -> Tensor:
        """Propagation over the train graph with the weights `encoder` [E], then attention over `decoder`."""
        total = nodes
        for _ in range(self.config.layers):
            nodes = weighted_sum(self.pattern, encoder, nodes)
            total = total + nodes
        return total + self._attend(nodes, decoder)

    def _attend(self, nodes: Tensor, decoder: Pattern) -> Tensor:
        """Multi-head attention of each node over its entries in `decoder`, [N, dim] -> [N, dim]."""
        parts = ((nodes @ weight).chunk(self.config.heads, 1) for weight in (self.query, self.key, self.value))
        heads = []
        for query, key, value in zip(*parts, strict=True):
            scores = edge_scores(decoder, query.contiguous(), key.contiguous())
            shares = decoder.row_shares(scores.clamp(-_MAX_SCORE, _MAX_SCORE).exp())
            heads.append(weighted_sum(decoder, shares, value.contiguous()))
        return torch.cat(heads, 1)

    def _draw_masks(self, nodes: Tensor) -> None:
        self._agreement = self._agreements(nodes)
        with torch.no_grad():
            luck = -torch.log(-torch.log(torch.rand_like(self._agreement)))  # Gumbel noise makes topk a random draw
            noisy = functional.logsigmoid(self._agreement) + luck
            seeds = noisy.topk(min(self.config.seeds, len(noisy))).indices
            kept, masked = self._hide(seeds)
            self._encoder = self._normalised(kept)
            self._decoder = self._decoder_pattern(kept, masked)

    def _agreements(self, nodes: Tensor) -> Tensor:
        """The cosine of each node with the sum of the nodes within two steps of it (equation 3), [N]."""
        ones = torch.ones(len(self.pattern), device=nodes.device)
        first = weighted_sum(self.pattern, ones, nodes)
        second = weighted_sum(self.pattern, ones, first) - self.pattern.row_sums(ones)[:, None] * nodes
        return functional.cosine_similarity(first + second, nodes, dim=-1)

    def _hide(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """The entries that are kept, bool [E], and the masked nodes, bool [N]: the seeds and the nodes near them."""
        rows, columns = self.pattern.rows, self.pattern.columns
        frontier = torch.zeros(self.pattern.nodes, dtype=torch.bool, device=rows.device)
        frontier[seeds] = True
        kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        masked = frontier.clone()

        for depth in range(self.config.mask_depth):
            hidden = kept & (frontier[rows] | frontier[columns])
            kept &= ~hidden
            if depth < self.config.mask_depth - 1:
                frontier = torch.zeros_like(frontier)
                frontier[rows[hidden]] = True
                masked |= frontier

        return kept, masked

    def _normalised(self, kept: Tensor) -> Tensor:
        """Weights of the train graph without the masked edges, normalised by the remaining degrees, [E]."""
        values = kept.float()
        scale = self.pattern.row_sums(values).clamp_min(1e-12).rsqrt()
        return values * scale[self.pattern.rows] * scale[self.pattern.columns]

    def _decoder_pattern(self, kept: Tensor, masked: Tensor) -> Pattern:
        """The remaining edges, self-loops, and random pairs among masked and some other nodes."""
        size, device = self.pattern.nodes, kept.device
        others = torch.randint(size, (int(size * self.config.random_nodes),), device=device)
        masked[others] = True
        candidates = masked.nonzero().squeeze(1)
        left, right = (candidates[torch.randint(len(candidates), (len(kept),), device=device)] for _ in range(2))
        loops = torch.arange(size, device=device)
        rows = torch.cat([self.pattern.rows[kept], left, right, loops])
        columns = torch.cat([self.pattern.columns[kept], right, left, loops])

        return Pattern(torch.unique(rows * size + columns), size)
