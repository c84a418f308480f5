"""Vectors for users and items without train interactions: predicted from their text.

Each side learns a ridge regression from text vectors to final representations on its warm rows, in closed form; the
penalty is the one with the least leave-one-out error.
"""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import Interactions, Representations

_MOST_ROWS = 100_000  # rows, evenly chosen, to fit the regression on
_PENALTIES = torch.logspace(-6, 3, 19, dtype=torch.float64)  # of the mean squared error of rows


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


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(W [p, q], b [q]) that minimise mean |x W + b - y|^2 + penalty |W|^2, for inputs [n, p] and targets [n, q].

    With X = inputs less their mean, X'X / n = V diag(s) V' and H the hat matrix of a penalty, the leave-one-out
    residual of row i is (y_i - ŷ_i) / (1 - 1/n - H_ii): all penalties are judged from one eigendecomposition.
    """
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y, n = x - x_mean, y - y_mean, len(x)
    values, vectors = torch.linalg.eigh(x.T @ x / n)
    scores = x @ vectors  # [n, p]
    moments = scores.T @ y / n  # [p, q]
    errors = torch.stack([_left_out(scores, moments, y, values.clamp_min(0) + each) for each in _PENALTIES])
    penalty = _PENALTIES.to(x.device)[errors.argmin()]
    weights = vectors @ (moments / (values.clamp_min(0) + penalty)[:, None])
    return weights.to(targets.dtype), (y_mean - x_mean @ weights).to(targets.dtype)


def _left_out(scores: Tensor, moments: Tensor, y: Tensor, damped: Tensor) -> Tensor:
    """Mean squared leave-one-out error, given eigenvalues plus penalty."""
    n = len(y)
    leverage = (scores.square() / damped).sum(1) / n + 1 / n
    residual = y - scores @ (moments / damped[:, None])
    return (residual / (1 - leverage).clamp_min(1e-9)[:, None]).square().sum(1).mean()
