"""The pieces all losses are made of: pure functions of tensors.

Letters in shapes: B pairs in a batch, n rows in a sample, m candidates, K centres, d width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bpr(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """mean_b softplus(u_b . n_b - u_b . p_b), all [B, d] -> scalar (Rendle et al., UAI 2009)."""
    return functional.softplus((user * (negative - positive)).sum(-1)).mean()


def softmax_loss(positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """mean_b -log( e^(p_b/t) / (e^(p_b/t) + sum_j e^(n_bj/t)) ); scores [B] and [B, m]; -inf leaves a negative out."""
    logits = torch.cat([positive[:, None], negatives], 1) / temperature
    return (torch.logsumexp(logits, 1) - logits[:, 0]).mean()


def info_nce(anchor: Tensor, match: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """mean_b [ log sum_j e^(cos(a_b, c_j)/t) - cos(a_b, m_b)/t ]; anchor and match [B, d], candidates [m, d].

    The match counts among the candidates only where it is one of them (van den Oord et al., 2018; RLMRec).
    """
    anchor = functional.normalize(anchor, dim=-1) / temperature
    positive = (anchor * functional.normalize(match, dim=-1)).sum(-1)
    return (torch.logsumexp(anchor @ functional.normalize(candidates, dim=-1).T, 1) - positive).mean()


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """mean_i cos(specific_i, shared_i)^2, both [n, d] (DaRec, L_or of one side)."""
    return functional.cosine_similarity(specific, shared, dim=-1).square().mean()


def uniformity(rows: Tensor, sharpness: float = 2.0) -> Tensor:
    """log mean_{x != y} exp(-t |x - y|^2) over unit rows [n, d] (Wang and Isola, 2020; DaRec's L_uni of a side)."""
    unit = functional.normalize(rows, dim=-1)
    n = len(rows)
    cosine = unit @ unit.T  # |x - y|^2 = 2 - 2 cos
    off_diagonal = (
        torch.exp(2 * sharpness * (cosine - 1)).sum() - torch.exp(2 * sharpness * (cosine.diagonal() - 1)).sum()
    )
    return torch.log(off_diagonal / (n * (n - 1)))


def structure_gap(left: Tensor, right: Tensor, similarity: str = "cosine") -> Tensor:
    """|S_left - S_right|_F^2 / n^2, S = X X^T of unit rows (cosine) or of rows as they are (inner); [n, d], [n, d'].

    DaRec, L_glo. Computed as |X'X|^2 + |Y'Y|^2 - 2 |X'Y|^2 over the d x d Gram matrices, so no n x n matrix is made.
    """
    if similarity == "cosine":
        left, right = functional.normalize(left, dim=-1), functional.normalize(right, dim=-1)
    squares = (left.T @ left).square().sum() + (right.T @ right).square().sum() - 2 * (left.T @ right).square().sum()
    return squares / len(left) ** 2


def centre_matrix_gap(left: Tensor, right: Tensor) -> Tensor:
    """mean_i (Z_ii - 1)^2 + mean_{i != j} Z_ij^2, Z the cosines of matched centres [K, d] (DaRec, L_loc)."""
    cosine = functional.normalize(left, dim=-1) @ functional.normalize(right, dim=-1).T
    diagonal = cosine.diagonal()
    count = len(left)
    others = (cosine.square().sum() - diagonal.square().sum()) / (count * (count - 1))
    return (diagonal - 1).square().mean() + others


def centre_distance(left: Tensor, right: Tensor) -> Tensor:
    """mean_i |left_i - right_i|^2 over matched centres [K, d] (DaRec, L_loc read as a distance)."""
    return (left - right).square().sum(-1).mean()


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_b -sum_j softmax(teacher_b)_j log softmax(student_b)_j; logits [B, m], temperatures already applied."""
    return functional.cross_entropy(student, torch.softmax(teacher, -1))
