"""Whitening and propagation of text vectors."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.errors import UserError
from darec.common.interactions import Interactions, Representations
from darec.model.propagation import Adjacency, power_sum

_BLOCK = 8192  # number of rows in double precision at once, so that no second copy of the text is in memory


def whiten(text: Representations, dims: int, strength: float = 1.0) -> Representations:
    """Principal components 1 to `dims` with unit variance, after subtracting the mean of each side: [N, d_L] -> [N,
    dims].

    With the covariance V diag(s) V' of the centred rows, s descending, the projection is W = V_dims diag(s_dims)^-1/2:
    W' V diag(s) V' W = I, so the new columns are uncorrelated and have variance 1.

    Users' and items' texts differ in form, so the mean of each side is subtracted; the components are common to both,
    so that users and items are comparable. `dims` is at most d_L. With `strength` p below 1, W is
    V_dims diag(s_dims)^-p/2, and the components have variance s^(1 - p): relaxed whitening.
    """
    covariance = text.nodes.new_zeros(text.dim, text.dim, dtype=torch.float64)
    for _, rows in _centred(text):
        covariance.addmm_(rows.T, rows)
    values, vectors = torch.linalg.eigh(covariance / len(text.nodes))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]

    projection = vectors * values.clamp_min(1e-9).pow(-strength / 2)  # W, [d_L, dims]
    result = text.nodes.new_empty(len(text.nodes), projection.shape[1], dtype=torch.float32)
    for first, rows in _centred(text):
        result[first : first + len(rows)] = rows @ projection
    return Representations(result, text.n_users)


def _centred(text: Representations) -> Iterator[tuple[int, Tensor]]:
    """Yields blocks of rows minus the mean of their side, float64, each with the number of its first node."""
    for start, side in ((0, text.user), (text.n_users, text.item)):
        mean = side.mean(0)
        for number, block in enumerate(side.split(_BLOCK)):
            yield start + number * _BLOCK, (block - mean).double()


def unit(text: Representations) -> Representations:
    """Rows of length 1; an empty text (a zero row) remains zero."""
    return Representations(functional.normalize(text.nodes, dim=-1), text.n_users)


def propagated(text: Representations, interactions: Interactions, components: int, steps: int) -> Representations:
    """Unit rows of whitened principal components, [N, components]; the sum of `steps` layers over the train graph.

    They describe a node's neighbourhood, like the representations of a graph model. A node without train interactions
    keeps its own row.
    """
    rows = unit(whiten(text, components))
    if not steps:
        return rows
    graph = Adjacency.normalised(interactions.train, interactions.n_users, interactions.n_items)
    rows = Representations(power_sum(graph, rows.nodes, steps), text.n_users)
    return unit(whiten(rows, components))


def start(text: Representations, dim: int, length: float = 0.1) -> Tensor:
    """Initial id embeddings: the first `dim` principal components, whitened, in rows of norm `length`: [N, dim].

    Raises:
        UserError: the text has fewer than `dim` dimensions.
    """
    if text.dim < dim:
        hint = f"set train.dim to at most {text.dim}, or train.text.use to add"
        raise UserError(
            f"text vectors of width {text.dim} cannot initialise embeddings of {dim}", where="train", hint=hint
        )
    return length * functional.normalize(whiten(text, dim).nodes, dim=-1)
