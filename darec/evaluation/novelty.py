"""Novelty: how unknown the recommended items are."""

from torch import Tensor

from darec.evaluation.metrics import USER_METRICS, Lists, UserMetric


@USER_METRICS.register("novelty")
class Novelty(UserMetric):
    """Mean of -log2(share of users who have the item in train) over a list (Zhou et al., PNAS 2010).

    It is the information of learning that a randomly drawn user has the item: 1 bit more for half as many users.
    """

    needs_catalogue = True

    def per_user(self, lists: Lists, k: int) -> Tensor:
        """Bits, at least 0."""
        assert lists.catalogue is not None
        return lists.catalogue.information[lists.top[:, :k]].mean(1)
