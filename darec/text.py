"""Text vectors as the model sees them."""

import torch
from torch.nn import functional

from darec.interactions import Representations


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
