"""Implicit ALS: matrix factorisation whose users and items are solved for in turn."""

import torch
from torch import Tensor

from darec.common.interactions import ItemLists, Pairs, Representations

_BLOCK = 1 << 24  # maximum size of the gathered rows of a block
_SPREAD = 0.1  # expected length of an initial row


def alternating_least_squares(
    train: Pairs, n_users: int, n_items: int, dim: int, sweeps: int, l2: float, unobserved: float
) -> Representations:
    """Rows U, V that minimise, by alternating between U and V,

    sum_{train} (u.v - 1)^2 + unobserved sum_{all} (u.v)^2
    + l2 sum_u (n_u + unobserved n_items) |u|^2 + l2 sum_i (n_i + unobserved n_users) |v|^2

    where n_u is the number of distinct train items of u, and n_i that of the users of i (Hu et al., ICDM 2008; the
    penalty of Rendle et al., RecSys 2022). The vectors of users and items without interactions are zero.
    """
    reverse = Pairs(train.items, train.users)
    by_user, by_item = ItemLists(train, n_users, n_items), ItemLists(reverse, n_items, n_users)
    item = torch.randn(n_items, dim, device=train.users.device) * _SPREAD / dim**0.5
    user = item.new_zeros(n_users, dim)
    for _ in range(sweeps):
        user = _solve(by_user, n_users, item, l2, unobserved)
        item = _solve(by_item, n_items, user, l2, unobserved)
    return Representations.join(user, item)


def _solve(lists: ItemLists, count: int, other: Tensor, l2: float, unobserved: float) -> Tensor:
    """The optimal rows [count, d] of one side, given those of the `other` side and each row's list of them.

    With the other side fixed, the loss is quadratic in each row u. Half its gradient is
    sum_{j in list} (u.v_j - 1) v_j + unobserved V'V u + l2 (n + unobserved m) u, with n the length of the list and m
    the number of rows of V. With L [n, d] the rows of V in the list and D = unobserved V'V + l2 (n + unobserved m) I,
    it is 0 where (L'L + D) u = L'1.

    In the basis of V'V's eigenvectors D is diagonal. This is a d x d system, or an n x n system for lists that are
    shorter than d: u = D^-1 L' (L D^-1 L' + I)^-1 1, because (L'L + D) D^-1 L' = L' (L D^-1 L' + I).
    """
    dim, everyone = other.shape[1], torch.arange(count, device=other.device)
    lengths = lists.lengths
    result = other.new_zeros(count, dim)
    eigenvalues, basis = torch.linalg.eigh(other.T @ other)  # [d], [d, d]
    rotated = other @ basis
    order = everyone[lengths > 0][torch.argsort(lengths[lengths > 0])]  # lists of similar length share a block

    for block in _blocks(lengths[order], dim):
        rows, members = order[block], lists.of(order[block])
        sizes = lengths[rows]
        gathered = other.new_zeros(len(rows), int(sizes.max()), dim)  # L, padded with zeros: [b, longest, d]
        first = (sizes.cumsum(0) - sizes)[members[0]]
        gathered[members[0], torch.arange(len(first), device=other.device) - first] = rotated[members[1]]
        diagonal = unobserved * eigenvalues + l2 * (sizes + unobserved * len(other))[:, None]  # D: [b, d]

        if gathered.shape[1] < dim:
            scaled = gathered / diagonal[:, None]  # L D^-1: [b, longest, d]
            small = scaled @ gathered.transpose(1, 2)  # [b, longest, longest]
            small.diagonal(dim1=1, dim2=2).add_(1)
            weights = _solve_positive(small, torch.ones_like(small[:, 0]))
            result[rows] = (weights[:, None] @ scaled)[:, 0]
        else:
            systems = gathered.transpose(1, 2) @ gathered + torch.diag_embed(diagonal)  # [b, d, d]
            result[rows] = _solve_positive(systems, gathered.sum(1))

    return result @ basis.T


def _solve_positive(systems: Tensor, right: Tensor) -> Tensor:
    """The solutions [b, n] of positive definite `systems` [b, n, n] with one right side [b, n] each."""
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(systems))[..., 0]


def _blocks(lengths: Tensor, dim: int) -> list[slice]:
    """Blocks of consecutive rows, ascending by length, whose gathered rows and systems have about `_BLOCK` numbers."""
    cost = (torch.maximum(lengths, torch.tensor(dim, device=lengths.device)) * dim).cumsum(0)
    sizes = torch.unique_consecutive(cost // _BLOCK, return_counts=True)[1]
    ends = sizes.cumsum(0).tolist()
    return [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)]
