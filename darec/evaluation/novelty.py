"""Novelty: how unknown the recommended items are."""

import torch
from torch import Tensor

from darec.evaluation.metrics import USER_METRICS, Lists, UserMetric


@USER_METRICS.register("novelty")
class Novelty(UserMetric):
    """Mean of -log2(share of users who have the item in train) over a list (Zhou et al., PNAS 2010).

    It is the information of learning that a randomly drawn user has the item: 1 bit more for half as many users.
    """

    needs_catalogue = True

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """Bits, at least 0. An item without train interactions counts as if it had one."""
        assert lists.catalogue is not None
        popularity = lists.catalogue.counts.clamp_min(1) / lists.catalogue.n_users
        return -torch.log2(popularity)[lists.top[:, :k]].mean(1)
