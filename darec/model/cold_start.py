"""Vectors for users and items without train interactions: predicted from their text.

Each side learns a ridge regression from text vectors to final representations on its warm rows, in closed form; the
penalty is the one with the least leave-one-out error.
"""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import Interactions, Representations
from darec.common.regression import ridge

_MOST_ROWS = 100_000  # rows, evenly chosen, to fit the regression on


def fill(final: Representations, text: Representations, interactions: Interactions, unit: bool) -> Representations:
    """`final` with the rows of cold users and items predicted from `text`; warm rows stay bit by bit.

    `unit`: predicted rows are brought to length 1. A side with fewer than two warm rows is left as it is.
    """
    train = interactions.train
    users = _filled(final.user, text.user, torch.bincount(train.users, minlength=interactions.n_users) > 0, unit)
    items = _filled(final.item, text.item, torch.bincount(train.items, minlength=interactions.n_items) > 0, unit)
    return Representations(torch.cat([users, items]), final.n_users)


def _filled(final: Tensor, text: Tensor, warm: Tensor, unit: bool) -> Tensor:
    if warm.all() or warm.sum() < 2:
        return final
    known = warm.nonzero().squeeze(1)
    known = known[:: -(-len(known) // _MOST_ROWS)]
    weights, bias = ridge(text[known], final[known])
    predicted = text[~warm] @ weights + bias
    result = final.clone()
    result[~warm] = functional.normalize(predicted, dim=-1) if unit else predicted
    return result
