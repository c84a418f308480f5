"""The number of users that validation ranks items for."""

import torch

from darec.common.interactions import Interactions, Pairs
from schemas.training import TrainConfig

_MOST_SCORES = 3_000_000_000  # maximum number of user-item pairs that validation ranks
_FEWEST_USERS = 2000


def validation_pairs(config: TrainConfig, data: Interactions) -> tuple[Pairs, bool]:
    """The validation pairs of the users to rank for, and whether they are a sample."""
    users = torch.unique(data.val.users)
    wanted = config.validation_users
    if wanted == "auto":
        wanted = max(_MOST_SCORES // max(data.n_items, 1), _FEWEST_USERS)
    if not wanted or len(users) <= wanted:
        return data.val, False
    chosen = users[torch.linspace(0, len(users) - 1, wanted, dtype=torch.float64, device=users.device).long()]
    inside = torch.isin(data.val.users, chosen)
    return Pairs(data.val.users[inside], data.val.items[inside]), True
