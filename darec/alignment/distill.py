"""Softmax-similarity distillation (after ProMax, SIGIR 2026): text similarities are the teacher of the ranking over all
items.
"""

import torch
from torch import Tensor
from torch.nn import functional

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.interactions import Batch, Representations
from darec.model import losses
from darec.model.whitening import whiten
from schemas.alignment import DistillConfig


@OBJECTIVES.register(DistillConfig)
class Distill(Objective):
    """Cross-entropy from softmax(cos(text_u, text_i) / teacher temperature) to softmax(e_u . e_i / temperature)."""

    def __init__(self, config: DistillConfig, setting: Setting) -> None:
        super().__init__()
        self.config = config
        text = whiten(setting.text, config.whiten) if config.whiten else setting.text
        self.text = Representations(functional.normalize(text.nodes, dim=-1), text.n_users)

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term over the batch's first `rows` users and all items."""
        users = batch.users[: self.config.rows]
        with torch.no_grad():
            teacher = self.text.user[users] @ self.text.item.T / self.config.teacher_temperature
        student = final.split.total(final.user[users] @ final.item.T) / self.config.temperature
        return {"distill": self.config.weight * losses.distillation(student, teacher)}
