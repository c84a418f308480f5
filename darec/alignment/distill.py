"""Softmax-similarity distillation (after ProMax, SIGIR 2026): text similarities are the teacher of the ranking over all
items.
"""

from math import log

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.interactions import Batch, Representations
from darec.model.softmax import distillation
from darec.model.whitening import unit, whiten
from schemas.alignment import DistillConfig


@OBJECTIVES.register(DistillConfig)
class Distill(Objective):
    """Cross-entropy from softmax(cos(text_u, text_i) / teacher temperature) to softmax(e_u . e_i / temperature), or
    to the softmax of cosines.
    """

    def __init__(self, config: DistillConfig, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.text = unit(_whitened(config, setting.text))

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term over the batch's first `rows` users and all items."""
        config, users = self.config, batch.users[: self.config.rows]
        if config.scores == "cosine":
            final = Representations(final.split.normalised(final.nodes), final.n_users, final.split)
        student = final.user[users] / config.temperature, final.item
        teacher = self.text.user[users] / config.teacher_temperature, self.text.item
        weigh = _certainty if config.users == "certain" else None
        return {"distill": config.weight * distillation(student, teacher, weigh, final.split)}


def _whitened(config: DistillConfig, text: Representations) -> Representations:
    if not config.whiten:
        return text
    if config.whiten_sides == "together":
        return whiten(text, config.whiten)
    users, items = Representations(text.user, text.n_users), Representations(text.item, 0)
    return Representations.join(*(whiten(side, config.whiten).nodes for side in (users, items)))


def _certainty(log_shares: Tensor) -> Tensor:
    """1 - H / H(uniform), at least 0.1, H the entropy of each row of shares: their logarithms [b, n] -> [b]."""
    entropy = -torch.linalg.vecdot(log_shares.exp(), log_shares)
    return (1 - entropy / log(log_shares.shape[1])).clamp_min(0.1)
