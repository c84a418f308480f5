"""A linear model over items in closed form, with text as side information: slow to store, strong on sparse data."""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.errors import UserError
from darec.model.interactions import ItemLists, Pairs

_MOST_ITEMS = 30_000  # two float32 matrices of items x items: 7.2 GB
_BLOCK_USERS = 1024


def item_weights(train: Pairs, n_users: int, item_text: Tensor, l2: float, text: float) -> Tensor:
    """How much an item in a user's history speaks for another: float32 [n_items, n_items] with a diagonal of zeros.

    EASE (Steck, WWW 2019) with side information as further rows of the data (Jeunen et al., RecSys 2020): the matrix B
    that minimises |X - X B|^2 + text |T' - T' B|^2 + l2 |B|^2, diag(B) = 0, where X [n_users, n_items] is 1 at train
    pairs and T [n_items, d_L] holds the items' unit texts: B_ij = -P_ij / P_jj, P = (X'X + text T T' + l2 I)^-1.

    Raises:
        UserError: too many items for a matrix of items x items.
    """
    n_items = len(item_text)
    if n_items > _MOST_ITEMS:
        hint = "use another objective than linear-teacher"
        raise UserError(f"{n_items} items are too many for the linear teacher", where="train.alignment", hint=hint)
    unit = functional.normalize(item_text.float(), dim=-1)
    gram = text * (unit @ unit.T) + _co_occurrence(train, n_users, n_items)
    gram.diagonal().add_(l2)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0)
    return weights


def _co_occurrence(train: Pairs, n_users: int, n_items: int) -> Tensor:
    """X'X: how many users have both items, float32 [n_items, n_items]."""
    matrix = _sparse(train, n_users, n_items)
    return torch.sparse.mm(matrix.T, matrix).to_dense()


def _sparse(pairs: Pairs, n_users: int, n_items: int) -> Tensor:
    keys = pairs.keys(n_items)
    indices = torch.stack([keys // n_items, keys % n_items])
    ones = torch.ones(len(keys), device=keys.device)
    return torch.sparse_coo_tensor(indices, ones, (n_users, n_items), is_coalesced=True, check_invariants=False)


def top_unseen(train: Pairs, n_users: int, weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each user's k best items that it has not in train, best first: items int64 [n_users, k], scores float32."""
    n_items = len(weights)
    history, seen = _sparse(train, n_users, n_items), ItemLists(train, n_users, n_items)
    items, scores = [], []
    for users in torch.arange(n_users, device=weights.device).split(_BLOCK_USERS):
        block = torch.sparse.mm(history.index_select(0, users), weights)
        block[seen.of(users)] = -torch.inf
        best = block.topk(k)
        items.append(best.indices)
        scores.append(best.values)
    return torch.cat(items), torch.cat(scores)
