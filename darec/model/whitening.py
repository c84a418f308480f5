"""Text vectors as the model sees them."""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.errors import UserError
from darec.common.interactions import Representations


def whiten(text: Representations, dims: int) -> Representations:
    """Principal components 1 to `dims` of unit variance, from vectors less their side's mean: [N, d_L] -> [N, dims].

    Users' and items' texts differ in form, so each side loses its own mean; the components are common to both, so that
    a user and an item stay comparable. `dims` beyond d_L means d_L.
    """
    rows = torch.cat([side - side.mean(0) for side in (text.user, text.item)]).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    return Representations((rows @ vectors * values.clamp_min(1e-9).rsqrt()).float(), text.n_users)


def unit(text: Representations) -> Representations:
    """Rows of length 1; an empty text (a zero row) stays zero."""
    return Representations(functional.normalize(text.nodes, dim=-1), text.n_users)


def start(text: Representations, dim: int, length: float = 0.1) -> Tensor:
    """Id embeddings to begin with: the first `dim` principal components, whitened, in rows of `length`: [N, dim].

    Raises:
        UserError: the text has fewer than `dim` dimensions.
    """
    if text.dim < dim:
        hint = f"set train.dim to at most {text.dim}, or train.text.use to add"
        raise UserError(f"text vectors of width {text.dim} cannot start embeddings of {dim}", where="train", hint=hint)
    return length * functional.normalize(whiten(text, dim).nodes, dim=-1)
