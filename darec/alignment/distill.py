"""Softmax-similarity distillation (after ProMax, SIGIR 2026): text similarities are the teacher of the ranking over all
items.
"""

from math import log

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.interactions import Batch, Representations
from darec.model import losses
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
        with torch.no_grad():
            shares = torch.softmax(self.text.user[users] @ self.text.item.T / config.teacher_temperature, -1)
            weights = _certainty(shares) if config.users == "certain" else None

        scores = final.split.total(final.user[users] @ final.item.T)
        if config.scores == "cosine":
            lengths = final.split.total(final.nodes.square().sum(1)).clamp_min(1e-12).sqrt()
            scores = scores / (lengths[users, None] * lengths[final.n_users :])
        return {"distill": config.weight * losses.distillation(scores / config.temperature, shares, weights)}


def _whitened(config: DistillConfig, text: Representations) -> Representations:
    if not config.whiten:
        return text
    if config.whiten_sides == "together":
        return whiten(text, config.whiten)
    users, items = Representations(text.user, text.n_users), Representations(text.item, 0)
    return Representations.join(*(whiten(side, config.whiten).nodes for side in (users, items)))


def _certainty(shares: Tensor) -> Tensor:
    """1 - H / H(uniform), at least 0.1, H the entropy of each row of `shares`: [b, n] -> [b]."""
    entropy = torch.special.entr(shares).sum(1)
    return (1 - entropy / log(shares.shape[1])).clamp_min(0.1)
