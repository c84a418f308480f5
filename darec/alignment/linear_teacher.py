"""Distillation from a closed-form linear model: its neighbourhoods of co-occurrence and text, in few dimensions."""

import torch
from torch import Tensor
from torch.nn import functional

from darec.alignment.base import Objective
from darec.interactions import Batch, Interactions, Representations
from darec.linear import item_weights, top_unseen
from darec.softmax import log_sum_exp
from darec.text import whiten
from schemas.alignment import LinearTeacherConfig


class LinearTeacher(Objective):
    """Each user's best unseen items by `darec.linear` are drawn as further positives, in proportion to their scores.

    The linear model needs items x items numbers and sees no user twice the same way; what it knows about items that a
    user has not touched is all that full ranking asks for, and a softmax brings it into the representations.
    """

    def __init__(self, config: LinearTeacherConfig, text: Representations, interactions: Interactions) -> None:
        super().__init__()
        self.config = config
        item_text = whiten(text, config.whiten).item if config.whiten else text.item
        train, n_users = interactions.train, interactions.n_users
        weights = item_weights(train, n_users, item_text, config.l2, config.text)
        count = min(config.top, interactions.n_items)
        self.top, scores = top_unseen(train, n_users, weights, count)
        self.shares = _cumulative(scores)
        self.users = torch.unique(train.users)

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term: for as many users as the batch has pairs, cross-entropy of a drawn item against shared ones."""
        config, users = self.config, batch.users
        if config.users == "uniform":
            users = self.users[torch.randint(len(self.users), users.shape, device=users.device)]
        positives = self._draw(users)
        drawn = torch.randperm(len(final.item), device=users.device)[: config.negatives]
        anchors = final.user[users] / config.temperature
        scores = (anchors * final.item[positives]).sum(-1)
        loss = functional.softplus(log_sum_exp(anchors, final.item[drawn]) - scores).mean()
        return {"linear-teacher": config.weight * loss}

    def _draw(self, users: Tensor) -> Tensor:
        """One of each user's best unseen items, int64 [b]."""
        chance = torch.rand(len(users), 1, device=users.device)
        rank = torch.searchsorted(self.shares[users], chance).clamp_max(self.top.shape[1] - 1)
        return self.top[users].gather(1, rank).squeeze(1)


def _cumulative(scores: Tensor) -> Tensor:
    """Cumulative shares of the positive scores of each row; a row without one gives all items the same."""
    positive = scores.clamp(min=0)
    positive = torch.where(positive.sum(1, keepdim=True) > 0, positive, torch.ones_like(positive))
    return (positive / positive.sum(1, keepdim=True)).cumsum(1)
