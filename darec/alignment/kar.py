"""KAR-style fusion (Xi et al., arXiv 2306.10933): mixtures of experts map text to an additional
input of the backbone.
"""

import torch
from torch import Tensor, nn

from darec.alignment.base import OBJECTIVES, Objective, Setting, mlp
from schemas.alignment import KARConfig


@OBJECTIVES.register(KARConfig)
class KAR(Objective):
    """The hybrid-expert adaptor: each side mixes its private experts and the shared experts."""

    def __init__(self, config: KARConfig, setting: Setting) -> None:
        super().__init__()
        self.text, self.split = setting.text, setting.split
        text = setting.text

        def experts() -> nn.ModuleList:
            return nn.ModuleList(mlp([text.dim, config.width, setting.dim]) for _ in range(config.experts))

        self.shared, self.for_users, self.for_items = experts(), experts(), experts()
        self.user_gate, self.item_gate = (nn.Linear(text.dim, 2 * config.experts) for _ in range(2))

    def inputs(self, nodes: Tensor) -> Tensor:
        """`nodes` plus the output of the experts for each node's text."""
        users = self._mix(self.text.user, self.for_users, self.user_gate)
        items = self._mix(self.text.item, self.for_items, self.item_gate)
        return nodes + self.split.part(torch.cat([users, items]))

    def _mix(self, text: Tensor, own: nn.ModuleList, gate: nn.Linear) -> Tensor:
        """sum_e gate_e(text) expert_e(text), [n, d_L] -> [n, dim]."""
        shares = torch.softmax(gate(text), -1)
        answers = torch.stack([expert(text) for expert in [*self.shared, *own]], 1)
        return torch.einsum("re,red->rd", shares, answers)
