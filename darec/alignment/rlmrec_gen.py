"""RLMRec-Gen (Ren et al., WWW 2024, section 3.4.2): text vectors are reconstructed from masked nodes."""

import torch
from torch import Tensor, nn

from darec.alignment.base import OBJECTIVES, Objective, Setting, mlp
from darec.common.interactions import Batch, Representations
from darec.model import losses
from schemas.alignment import RLMRecGenConfig


@OBJECTIVES.register(RLMRecGenConfig)
class RLMRecGen(Objective):
    """A random fraction of the nodes enters propagation as a learnt token; a decoder reconstructs their text from the
    output.
    """

    def __init__(self, config: RLMRecGenConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.text, self.split = config, setting.text, setting.split
        text_dim, out_dim = setting.text.dim, setting.out_dim
        self.token = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, setting.dim)))
        self.decode = mlp([out_dim, (text_dim + out_dim) // 2, text_dim])
        self._masked = torch.empty(0, dtype=torch.int64)

    def inputs(self, nodes: Tensor) -> Tensor:
        """In training, `nodes` with the token in the rows that this step masks."""
        if not self.training:
            return nodes
        count = max(1, int(len(nodes) * self.config.mask))
        self._masked = torch.randperm(len(nodes), device=nodes.device)[:count]
        return nodes.index_copy(0, self._masked, self.split.part(self.token).expand(count, -1))

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term: InfoNCE of decoded masked nodes against each other's text vectors."""
        rows = self._masked[: self.config.rows or None]
        target, decoded = self.text.nodes[rows], self.decode(final.split.whole(final.nodes[rows]))
        return {"rlmrec-gen": self.config.weight * losses.info_nce(decoded, target, target, self.config.temperature)}
