"""Loss functions: pure functions of tensors.

Symbols in shapes: B pairs in a batch, n rows in a sample, m candidates, K centres, d width.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from darec.common.column_split import UNSPLIT, ColumnSplit
from darec.common.device import bfloat16_helps
from darec.model.softmax import full_precision, mean_log_sum_exp


def bpr(user: Tensor, positive: Tensor, negative: Tensor, split: ColumnSplit = UNSPLIT) -> Tensor:
    """mean_b softplus(u_b . n_b - u_b . p_b), all [B, d] -> scalar (Rendle et al., UAI 2009).

    With s = u . p - u . n, the probability that p ranks before n is sigmoid(s) = 1 / (1 + e^-s). Its negative logarithm
    is log(1 + e^-s) = softplus(-s).
    """
    return functional.softplus(split.total((user * (negative - positive)).sum(-1))).mean()


def info_nce(
    anchor: Tensor,
    match: Tensor,
    candidates: Tensor,
    temperature: float,
    counts: Tensor | None = None,
    split: ColumnSplit = UNSPLIT,
) -> Tensor:
    """mean_b [ log sum_j e^(cos(a_b, c_j)/t) - cos(a_b, m_b)/t ]; anchor and match [B, d], candidates [m, d].

    If the match is among the candidates, this is -log softmax_j(cos(a_b, c_j) / t) at the match: the cross-entropy of
    finding it (van den Oord et al., 2018; RLMRec).
    With `counts` [B], anchor b stands for `counts[b]` equal ones. Processes that hold all columns (`split`) compute
    some of the anchors each.
    """
    anchor = functional.normalize(anchor, dim=-1) / temperature
    positive = (anchor * functional.normalize(match, dim=-1)).sum(-1)
    mean = positive.mean() if counts is None else (positive * counts).sum() / counts.sum()
    return mean_log_sum_exp(anchor, functional.normalize(candidates, dim=-1), counts, split) - mean


def contrast_views(
    first: Tensor, second: Tensor, rows: Tensor, temperature: float, negatives: str, split: ColumnSplit = UNSPLIT
) -> Tensor:
    """InfoNCE of `rows` (int64 [B], duplicates count repeatedly) between two views [n, d] of the same nodes.

    Args:
        negatives: "all" rows of the second view, or only those of the "batch".
        split: processes that hold all columns compute some of the rows each.
    """
    rows, counts = torch.unique(rows, return_counts=True)
    match = second[rows]
    return info_nce(first[rows], match, second if negatives == "all" else match, temperature, counts, split)


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """mean_i cos(specific_i, shared_i)^2, both [n, d] (DaRec, L_or of one side)."""
    return functional.cosine_similarity(specific, shared, dim=-1).square().mean()


def uniformity(rows: Tensor, sharpness: float = 2.0) -> Tensor:
    """log mean_{x != y} exp(-t |x - y|^2) over unit rows [n, d] (Wang and Isola, 2020; DaRec's L_uni of a side).

    Unit rows have |x - y|^2 = 2 - 2 x.y, so the exponent is 2 t x.y - 2 t: the inner product of rows of length
    sqrt(2 t), minus 2 t.
    """
    n = len(rows)
    scaled = functional.normalize(full_precision(rows), dim=-1) * (2 * sharpness) ** 0.5
    powers = cast("Tensor", _PairPowers.apply(scaled, 2 * sharpness))
    return torch.log(powers / (n * (n - 1)))


class _PairPowers(torch.autograd.Function):
    """sum_{i != j} E_ij, E_ij = e^(x_i . x_j - c), [n, d] -> scalar.

    x_i is in the terms (i, j) and (j, i), which are equal, so the gradient in x_i is 2 sum_{j != i} E_ij x_j. The n x n
    matrix E is computed once, for the value and for E X.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shift: float) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            powers = (rows @ rows.T).sub_(shift).exp_().fill_diagonal_(0)
            ctx.save_for_backward(powers @ rows)  # E X, [n, d]
        return powers.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2 * gradient), None


def structure_gap(left: Tensor, right: Tensor, similarity: str = "cosine") -> Tensor:
    """|S_left - S_right|_F^2 / n^2, S = X X^T of unit rows (cosine) or of rows as they are (inner); [n, d], [n, d'].

    DaRec, L_glo. For symmetric matrices |XX' - YY'|^2 = tr(XX'XX') + tr(YY'YY') - 2 tr(XX'YY'), and a trace does not
    change when its factors rotate: tr(XX'YY') = tr(X'Y Y'X) = |X'Y|^2. It is therefore computed as
    |X'X|^2 + |Y'Y|^2 - 2 |X'Y|^2 from matrices of width x width, without an n x n matrix. The terms nearly cancel, so
    bfloat16 is not precise enough.
    """
    left, right = full_precision(left), full_precision(right)
    if similarity == "cosine":
        left, right = functional.normalize(left, dim=-1), functional.normalize(right, dim=-1)
    with torch.autocast(left.device.type, enabled=False):
        squares = [(a.T @ b).square().sum() for a, b in ((left, left), (right, right), (left, right))]
    return (squares[0] + squares[1] - 2 * squares[2]) / len(left) ** 2


def structure_divergence(left: Tensor, right: Tensor, temperature: float, right_temperature: float) -> Tensor:
    """mean_i KL(p_i || q_i), q_i = softmax_{j != i}(cos(x_i, x_j) / t) over rows of `left`, p_i likewise of `right`.

    A variant of DaRec's L_glo that compares neighbourhoods instead of similarities. Gradients reach both `left` [n, d]
    and `right` [n, d'].
    """
    sharp = sharpened(left, temperature), sharpened(right, right_temperature)
    scores = ((rows @ rows.T).fill_diagonal_(-1e9) for rows in sharp)
    q, p = (torch.log_softmax(each, 1) for each in scores)
    return functional.kl_div(q, p, log_target=True, reduction="sum") / len(left)


def structure_cross_entropy(left: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`structure_divergence` plus the entropy of a frozen `teacher`: mean_i -sum_j p_ij log q_ij.

    KL(p || q) = sum_j p_j log p_j - sum_j p_j log q_j, and the first sum depends on the teacher only: both losses have
    the same gradient. `teacher` [n, d'] is already `sharpened`. Cheaper than the divergence, because the forward pass
    computes the gradient too and reads each n x n matrix once. Temperatures must be at least 0.02, or e^(1/t)
    overflows.
    """
    return cast("Tensor", _StructureCrossEntropy.apply(full_precision(left), full_precision(teacher), temperature))


def sharpened(rows: Tensor, temperature: float) -> Tensor:
    """Rows [n, d] whose inner products are cosines over the temperature."""
    return functional.normalize(full_precision(rows), dim=-1) / temperature**0.5


class _StructureCrossEntropy(torch.autograd.Function):
    """mean_i [ log sum_{j != i} e^(S_ij) - sum_j p_ij S_ij ], as the p_ij of a row add up to 1.

    S = X X' with X = U / sqrt(t), U the unit rows of `left`. The derivative in S_ij is G_ij = (q_ij - p_ij) / n.
    S_ij = x_i . x_j changes with both rows, so the derivative in X is (G + G') X = (Q + Q' - P - P') X / n. In U it is
    1 / sqrt(t) of that, and in a row r = |r| u of `left` the part of it that is orthogonal to u, divided by |r|.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        with torch.autocast(left.device.type, enabled=False):
            length = left.norm(dim=1, keepdim=True).clamp_min_(1e-12)
            unit = left / length
            sharp = unit * temperature**-0.5
            sums, _, slope = _softmax_products(sharp @ sharp.T, sharp)
            _, taught, teacher_slope = _softmax_products(_coarse_scores(teacher), sharp)  # taught: P X, [n, d]
            slope = slope.sub_(teacher_slope)  # (Q + Q' - P - P') X, [n, d]
            # Cosines do not depend on the length of a row.
            across = torch.addcmul(slope, unit, (slope * unit).sum(1, keepdim=True), value=-1)
            ctx.save_for_backward(across / (length * (len(left) * temperature**0.5)))
            return (sums.log().sum() - (taught * sharp).sum()) / len(left)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (to_left,) = ctx.saved_tensors
        return to_left * gradient, None, None


def _coarse_scores(rows: Tensor) -> Tensor:
    """Inner products of float32 rows, [n, d] -> [n, n], through bfloat16 where that is faster: within 1% of most."""
    if rows.dtype == torch.float32 and bfloat16_helps(rows.device):
        rows = rows.bfloat16()
        return (rows @ rows.T).float()
    return rows @ rows.T


def _softmax_products(scores: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums [n, 1] of each row of E = exp(S) off the diagonal, Q X and (Q + Q') X [n, d], Q = E / sums, X = `left`.

    S, which is overwritten, is symmetric, so Q' is E over the sums of its columns, and one product of E gives both.
    """
    powers = scores.exp_().fill_diagonal_(0)
    sums = powers.sum(1, keepdim=True)
    unscaled, columns = (powers @ torch.cat([left, left / sums], 1)).chunk(2, 1)
    scaled = unscaled / sums
    return sums, scaled, scaled + columns


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


def centre_relations(left: Tensor, right: Tensor) -> Tensor:
    """mean_{i != j} (cos(left_i, left_j) - cos(right_i, right_j))^2 over matched centres [K, d], [K, d'].

    DaRec's L_loc for two sides in different spaces: it compares the relations between centres, not their positions. The
    diagonals of both matrices are 1, so they add nothing to the sum over all pairs.
    """
    return cast("Tensor", _CentreRelations.apply(full_precision(left), full_precision(right)))


class _CentreRelations(torch.autograd.Function):
    """|D|^2 / (K (K - 1)), D = U U' - V V' with U and V the unit rows of both sides.

    U_i is in row i and in column i of D, which is symmetric, so the derivative of |D|^2 in U is 4 D U, and in V it is
    -4 D V. In a row r = |r| u it is the part of this that is orthogonal to u, divided by |r|. The forward pass computes
    it, in a third of the operations of autograd: on a GPU the time of matrices this small is that of their number.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        with torch.autocast(left.device.type, enabled=False):
            lengths = [rows.norm(dim=1, keepdim=True).clamp_min_(1e-12) for rows in (left, right)]
            u, v = left / lengths[0], right / lengths[1]
            gap, pairs = torch.addmm(u @ u.T, v, v.T, alpha=-1), len(left) * (len(left) - 1)
            gradients: list[Tensor | None] = [None, None]
            for side, (unit, sign) in enumerate(((u, 1), (v, -1))):
                if ctx.needs_input_grad[side]:
                    slope = gap @ unit
                    across = torch.addcmul(slope, unit, (slope * unit).sum(1, keepdim=True), value=-1)
                    gradients[side] = across / (lengths[side] * (sign * pairs / 4))
            ctx.save_for_backward(*gradients)
            return gap.square().sum() / pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = (None if each is None else each * gradient for each in ctx.saved_tensors)
        return left, right


def distillation(student: Tensor, shares: Tensor, weights: Tensor | None = None) -> Tensor:
    """mean_b -w_b sum_j p_bj log softmax(student_b)_j: logits with the temperature applied and the teacher's shares p
    [B, m], and weights [B], 1 by default.
    """
    losses = functional.cross_entropy(student, shares, reduction="none")
    return losses.mean() if weights is None else (weights * losses).mean()
