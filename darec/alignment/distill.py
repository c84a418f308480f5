"""Softmax-similarity distillation (after ProMax, SIGIR 2026): text similarities are the teacher of the ranking over all
items.
"""

from math import log

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.interactions import Batch, Representations
from darec.model.softmax import distillation, log_sum_exp
from darec.model.whitening import unit, whiten
from schemas.alignment import DistillConfig


@OBJECTIVES.register(DistillConfig)
class Distill(Objective):
    """Cross-entropy from softmax(cos(text_u, text_i) / teacher temperature) to softmax(e_u . e_i / temperature), or
    to the softmax of cosines.
    """

    def __init__(self, config: DistillConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.fixed = config, setting.fixed
        self.text = unit(_whitened(config, setting.text))
        self.trust = _certainty(self.text, config.teacher_temperature) if config.users == "certain" else None

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term over the batch's first `rows` users and all items."""
        config, users = self.config, batch.users[: self.config.rows]
        if self.fixed:
            weights = torch.full((len(users),), 1 / len(users), device=users.device)
        else:  # a user who occurs several times is computed once
            users, counts = torch.unique(users, return_counts=True)
            weights = counts / counts.sum()
        if self.trust is not None:
            weights = weights * self.trust[users]

        if config.scores == "cosine":
            final = Representations(final.split.normalised(final.nodes), final.n_users, final.split)
        student = final.user[users] / config.temperature, final.item
        teacher = self.text.user[users] / config.teacher_temperature, self.text.item
        return {"distill": config.weight * distillation(student, teacher, weights, final.split)}


def _whitened(config: DistillConfig, text: Representations) -> Representations:
    if not config.whiten:
        return text
    if config.whiten_sides == "together":
        return whiten(text, config.whiten)
    users, items = Representations(text.user, text.n_users), Representations(text.item, 0)
    return Representations.join(*(whiten(side, config.whiten).nodes for side in (users, items)))


def _certainty(text: Representations, temperature: float) -> Tensor:
    """1 - H / H(uniform), at least 0.1, of each user, [n_users]: H is the entropy of the user's shares p of the items.

    With scores s_j and l = log sum_j e^s_j, log p_j is s_j - l, so H = -sum_j p_j log p_j = l - sum_j p_j s_j. The
    gradient of l in the user's row is sum_j p_j c_j, c_j the rows of the items.
    """
    rows = (text.user / temperature).requires_grad_()
    with torch.enable_grad():
        log_sums = log_sum_exp(rows, text.item)
    (expected,) = torch.autograd.grad(log_sums.sum(), rows)
    entropy = log_sums.detach() - torch.linalg.vecdot(rows.detach(), expected)
    return (1 - entropy / log(len(text.item))).clamp_min(0.1)
