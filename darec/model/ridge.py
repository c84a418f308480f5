"""EASE, EASE with texts as additional rows, and L3AE: ridge regressions of each item on all other items.

All three solve, for every item j, min_b |x_j - X b|^2 + l2 |b - c_j|^2 with b_j = 0, X [n_users, n_items] being 1 at
train pairs. c_j are the weights for item j from the texts alone, 0 in EASE. The whole matrix has a closed form with one
inverse of items x items; `darec.model.neighbours` solves larger catalogues.

Derivation, with G = X'X, P = (G + l2 I)^-1, e_j the j-th unit vector and 2 g_j the multiplier of b_j = 0: half the
gradient of the Lagrangian is (G + l2 I) b - G e_j - l2 c_j + g_j e_j, which is 0 for all columns together at
    B = P (G + l2 C) - P diag(g) = I - l2 P + l2 P C - P diag(g),        as P G = I - l2 P.
B_jj = 0 gives the multipliers: g_j = (1 - l2 P_jj + l2 (P C)_jj) / P_jj. Without texts, C = 0, this is
g_j = 1 / P_jj - l2, so that B = I - P diag(1 / P_jj): EASE, whose entries off the diagonal are -P_ij / P_jj.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import Pairs
from darec.model.item_weights import DenseWeights, history_matrix


@dataclass(frozen=True)
class TextPrior:
    """The weights from the texts alone: C_ij = left_i . right_j for i != j, and C_ii = 0. Both factors are float32
    [n_items, d].
    """

    left: Tensor
    right: Tensor

    @property
    def diagonal(self) -> Tensor:
        """left_i . right_i, which C leaves out: float32 [n_items]."""
        return (self.left * self.right).sum(1)


def text_prior(item_text: Tensor, l2: float, scale: float) -> TextPrior:
    """`scale` times EASE with the dimensions of the unit texts T [n_items, d] instead of users.

    EASE's matrix is -P_ij / P_jj with P = (T T' + l2 I)^-1 = (I - T M T') / l2, M = (T'T + l2 I)^-1 (Woodbury), so that
    C_ij = scale (T M T')_ij / (1 - (T M T')_jj): only a d x d matrix is inverted, never items x items.
    """
    unit = functional.normalize(item_text.double(), dim=-1)  # T, [n_items, d]
    inner = torch.linalg.inv(unit.T @ unit + l2 * torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device))
    left = unit @ inner  # T M, [n_items, d]
    right = scale * unit / (1 - (left * unit).sum(1, keepdim=True))
    return TextPrior(left.float(), right.float())


def ease(train: Pairs, n_users: int, n_items: int, l2: float) -> DenseWeights:
    """EASE (Steck, WWW 2019): B_ij = -P_ij / P_jj, P = (X'X + l2 I)^-1."""
    return DenseWeights(_without_diagonal(_inverse(_co_occurrence(train, n_users, n_items), l2)))


def ease_with_text_rows(train: Pairs, n_users: int, item_text: Tensor, l2: float, text: float) -> DenseWeights:
    """EASE whose data has the dimensions of the unit texts T as additional rows (Jeunen et al., RecSys 2020).

    With the rows sqrt(text) T' below X, the products of columns are X'X + text T T'. Therefore
    P = (X'X + text T T' + l2 I)^-1, and B as in EASE.
    """
    n_items = len(item_text)
    unit = functional.normalize(item_text.float(), dim=-1)
    gram = text * (unit @ unit.T) + _co_occurrence(train, n_users, n_items)
    return DenseWeights(_without_diagonal(_inverse(gram, l2)))


def l3ae(train: Pairs, n_users: int, n_items: int, l2: float, prior: TextPrior) -> DenseWeights:
    """Ridge regression towards the weights of the texts: B = P (X'X + l2 C) - P diag(g), P = (X'X + l2 I)^-1, g so that
    diag(B) = 0.

    It is computed as I - l2 P + l2 P C - P diag(g) (derived at the top of this file), with P C from the factors of C.
    With rX and rE of the paper (L3AE, Moon et al., CIKM 2025), l2 = rX + rE and the prior's scale is rE / (rX + rE):
    rX |b|^2 + rE |b - e_j|^2, e_j being the weights of the texts, is l2 |b - rE / l2 e_j|^2 plus a constant.
    """
    inverse = _inverse(_co_occurrence(train, n_users, n_items), l2)
    inverse_diagonal = inverse.diagonal().clone()
    # C = left right' - diag(d), so l2 P C - l2 P = l2 (P left right' - P diag(1 + d)), all [n_items, n_items].
    weights = (inverse @ prior.left) @ prior.right.T
    weights = weights.sub_(inverse * (1 + prior.diagonal)).mul_(l2)
    multipliers = (weights.diagonal() + 1) / inverse_diagonal  # g, [n_items]
    weights.sub_(inverse.mul_(multipliers))  # B - I: only the diagonal lacks 1, and it is 0 in B
    weights.fill_diagonal_(0)
    return DenseWeights(weights)


def _co_occurrence(train: Pairs, n_users: int, n_items: int) -> Tensor:
    """X'X: the number of users who have both items, float32 [n_items, n_items]."""
    history = history_matrix(train, n_users, n_items)
    return torch.sparse.mm(history.T, history).to_dense()


def _inverse(gram: Tensor, l2: float) -> Tensor:
    """(gram + l2 I)^-1; `gram` is overwritten."""
    gram.diagonal().add_(l2)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram))


def _without_diagonal(inverse: Tensor) -> Tensor:
    """-P_ij / P_jj, and 0 on the diagonal; `inverse` P is overwritten."""
    weights = inverse.div_(-inverse.diagonal().clone())
    return weights.fill_diagonal_(0)
