"""Distillation from a closed-form linear model of co-occurrence and text into low-dimensional vectors."""

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.interactions import Batch, Interactions, ItemLists, Representations
from darec.model.closed_form import ItemWeights, item_weights, text_rows_weights, top_unseen
from darec.model.softmax import log_sum_exp
from schemas.alignment import LinearTeacherConfig


@OBJECTIVES.register(LinearTeacherConfig)
class LinearTeacher(Objective):
    """The target of the softmax over all unseen items is the linear model's scores for a user's best unseen items.

    The linear model has items x items weights. Ranking only needs its scores of unseen items, which the softmax
    transfers to the representations.
    """

    def __init__(self, config: LinearTeacherConfig, setting: Setting) -> None:
        super().__init__()
        self.config = config
        text, interactions = setting.text, setting.interactions
        train, n_users, n_items = interactions.train, interactions.n_users, interactions.n_items
        weights = _weights(config, text, interactions)
        self.top, scores = top_unseen(train, n_users, n_items, weights, min(config.top, n_items))
        self.shares = _shares(scores, config.sharpness)
        self.users = torch.unique(train.users)
        self.seen = ItemLists(train, n_users, n_items)

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term: cross-entropy with the teacher's distribution, for as many users as the batch has pairs.

        With the teacher's shares p of a user and scores s_j = u . v_j / temperature, as the shares add up to 1:
        -sum_j p_j log softmax(s)_j = log sum_j e^(s_j) - sum_j p_j s_j, and the last sum is u . (sum_j p_j v_j) /
        temperature. The first runs over all unseen items, the second only over the teacher's best.
        """
        config, users = self.config, batch.users
        if config.users == "uniform":
            users = self.users[torch.randint(len(self.users), users.shape, device=users.device)]
        anchors = final.user[users] / config.temperature
        wanted = (self.shares[users].unsqueeze(1) @ final.item[self.top[users]]).squeeze(1)  # sum_j p_j v_j, [B, d]
        normalisers = log_sum_exp(anchors, final.item, self.seen.of(users), final.split)
        reached = final.split.total((anchors * wanted).sum(-1))
        return {"linear-teacher": config.weight * (normalisers - reached).mean()}


def _weights(config: LinearTeacherConfig, text: Representations, interactions: Interactions) -> ItemWeights:
    if config.model is None:
        return text_rows_weights(interactions, text, config.l2, config.text, config.whiten)
    return item_weights(config.model, interactions, text)


def _shares(scores: Tensor, sharpness: float) -> Tensor:
    """Positive scores to the power of `sharpness`, normalised by row. A row without positive scores is uniform over its
    unseen items; a seen one has the score -inf."""
    positive = scores.clamp(min=0).pow(sharpness)
    positive = torch.where(positive.sum(1, keepdim=True) > 0, positive, scores.isfinite().to(positive.dtype))
    return positive / positive.sum(1, keepdim=True)
