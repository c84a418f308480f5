"""Factorises item-to-item weights into vectors of users and items, so that linear models are
released like any other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from darec.common.interactions import Pairs, Representations
from darec.model.item_weights import ItemWeights, history_matrix

Product = Callable[[Tensor], Tensor]
"""A linear operator, given by its product with a matrix."""

_OVERSAMPLED = 16  # additional random columns (oversampling)
_ITERATIONS = 4
_PROBES = 64


def factorise(train: Pairs, n_users: int, n_items: int, weights: ItemWeights, dim: int) -> Representations:
    """Vectors of width `dim` whose inner products are close to the scores X B.

    It is the truncated singular value decomposition of D X B S: D = |history|^-1/2 limits the influence of active
    users, and S = (length of the column of D X B)^-1/4 that of popular items. With its right vectors V, items are
    S^-1 V L and users X B S V L^-1.

    L is diagonal with the square roots of the lengths of the columns of X B S V. It cancels in scores and weighs the
    columns of items: without it, all are equally important, and the cosines of items in a wide model are about 0
    (Levy and Goldberg, NIPS 2014, find the square root best for word vectors).

    A V V' is the closest matrix of rank `dim` to A = D X B S (Eckart and Young, 1936). Dividing it by the weights,
    X B ~ D^-1 A V V' S^-1 = (X B S V) (S^-1 V)': D cancels, and a new user's vector depends on the own history only.
    """
    history = history_matrix(train, n_users, n_items)
    of_users, of_items = history.to_sparse_csr(), history.T.coalesce().to_sparse_csr()
    busy = torch.bincount(train.keys(n_items) // n_items, minlength=n_users).clamp_min(1).float().rsqrt()[:, None]

    def transposed(rows: Tensor) -> Tensor:
        return weights.transposed_times(of_items @ (busy * rows))

    # The squared length of a column a is the mean of (a . g)^2 over random g, because E[g g'] = I.
    probes = torch.randn(n_users, _PROBES, device=history.device)
    columns = transposed(probes).square().mean(1).sqrt()
    scale = columns.clamp_min(1e-4 * float(columns.max()) + 1e-12).pow(-0.25)[:, None]
    vectors = right_singular_vectors(
        lambda columns: busy * (of_users @ weights.times(scale * columns)),
        lambda rows: scale * transposed(rows),
        torch.randn(n_items, dim + _OVERSAMPLED, device=history.device),
    )[:, :dim]

    users = of_users @ weights.times(scale * vectors)
    lengths = users.norm(dim=0).sqrt()
    lengths = lengths.clamp_min(1e-6 * float(lengths.max()) + 1e-12)
    return Representations.join(users / lengths, vectors / scale * lengths)


def right_singular_vectors(times: Product, transposed_times: Product, start: Tensor) -> Tensor:
    """The right singular vectors of A with the largest singular values, largest first, from random columns `start` [n,
    k]: [n, k].

    Subspace iteration (Halko et al., SIAM Review 2011): each product with A'A multiplies the part of a column along the
    i-th vector by s_i^2, so the columns turn towards the leading ones; QR keeps them apart. Within their span Q, the
    vectors are Q W, W the eigenvectors of (A Q)'(A Q). The last few columns are less exact than the others.
    """
    columns = start
    for _ in range(_ITERATIONS):
        rows = torch.linalg.qr(times(columns)).Q
        columns = torch.linalg.qr(transposed_times(rows)).Q
    inner = times(columns)  # A Q, [m, k]
    return columns @ torch.linalg.eigh(inner.T @ inner).eigenvectors.flip(1)
