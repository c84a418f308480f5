"""Ridge regression in closed form, with the penalty that has the smallest leave-one-out error."""

import torch
from torch import Tensor

_PENALTIES = torch.logspace(-6, 3, 19, dtype=torch.float64)  # tried; suits inputs of about unit length


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(W [p, q], b [q]) that minimise mean |x W + b - y|^2 + penalty |W|^2, for inputs [n, p] and targets [n, q].

    With X and Y centred and X'X / n = V diag(s) V', half the gradient in W is X'(X W - Y) / n + penalty W, which is 0
    at W = V diag(1 / (s + penalty)) V'X'Y / n; b makes the means equal.

    The predictions are linear in the targets: ŷ = K y with K = 1/n + X V diag(1 / (s + penalty)) V'X' / n. Without row
    i the prediction z for it is the one that is also found by keeping the row with z as its target, which then has no
    error: z = ŷ_i + K_ii (z - y_i). Hence y_i - z = (y_i - ŷ_i) / (1 - K_ii), and one eigendecomposition evaluates all
    penalties.
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
    leverage = (scores.square() / damped).sum(1) / n + 1 / n  # K_ii, [n]
    residual = y - scores @ (moments / damped[:, None])
    return (residual / (1 - leverage).clamp_min(1e-9)[:, None]).square().sum(1).mean()
