"""Ridge regression in closed form, with the penalty that has the smallest leave-one-out error."""

import torch
from torch import Tensor

_PENALTIES = torch.logspace(-6, 3, 19, dtype=torch.float64)  # tried, relative to the largest eigenvalue


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(W [p, q], b [q]) that minimise mean |x W + b - y|^2 + penalty |W|^2, for inputs [n, p] and targets [n, q].

    With X the centred inputs, X'X / n = V diag(s) V' and H the hat matrix of a penalty, the leave-one-out residual of
    row i is (y_i - ŷ_i) / (1 - 1/n - H_ii): one eigendecomposition evaluates all penalties.
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
