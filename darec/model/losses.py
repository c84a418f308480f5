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


def contrast_distinct(first: Tensor, second: Tensor, repeats: Tensor, temperature: float) -> Tensor:
    """InfoNCE of the distinct nodes of a batch between two views, with candidates from the batch: rows [B, d] of nodes
    that occur `repeats` [B] times -> scalar.

    Each of n equal rows counts 1/n, among the anchors and, by adding log(1/n) to its scores, among the candidates:
    n (1/n) e^s = e^s. The result is that of the distinct rows, and no shape depends on their number.
    """
    anchor = functional.normalize(full_precision(first), dim=-1) / temperature
    match = functional.normalize(full_precision(second), dim=-1)
    shares = 1 / repeats.to(match.dtype)
    reached = ((anchor * match).sum(-1) * shares).sum() / shares.sum()

    # A further column of ones and of log(1/n) adds log(1/n) to the inner products.
    anchor = torch.cat([anchor, torch.ones_like(shares)[:, None]], 1)
    candidates = torch.cat([match, shares.log()[:, None]], 1)
    return mean_log_sum_exp(anchor, candidates, shares) - reached


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


def structure_cross_entropy(left: Tensor, teacher: Tensor, temperature: float, weight: float = 1.0) -> Tensor:
    """`structure_divergence` plus the entropy of a frozen `teacher`, times `weight`: mean_i -sum_j p_ij log q_ij.

    KL(p || q) = sum_j p_j log p_j - sum_j p_j log q_j, and the first sum depends on the teacher only: both losses have
    the same gradient. `teacher` [n, d'] is already `sharpened`. Cheaper than the divergence, because the forward pass
    computes the gradient too.
    """
    sides = full_precision(left), full_precision(teacher)
    return cast("Tensor", _StructureCrossEntropy.apply(*sides, temperature, weight))


def sharpened(rows: Tensor, temperature: float) -> Tensor:
    """Rows [n, d] whose inner products are cosines over the temperature."""
    return functional.normalize(full_precision(rows), dim=-1) / temperature**0.5


class _StructureCrossEntropy(torch.autograd.Function):
    """mean_i -sum_j p_ij log q_ij, with q_i = softmax_{j != i}(S_ij) and p_i likewise of the teacher's inner products.

    S = U U' / t, U the unit rows of `left`. The derivative in S_ij is G_ij = (q_ij - p_ij) / n. S_ij = u_i . u_j / t
    changes with both rows, so the derivative in U is (G + G') U / t.

    On a GPU the number of operations takes more time than their work, so each does as much as it can: products apply
    the factors, and both matrices of scores are changed at once.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, teacher: Tensor, temperature: float, weight: float) -> Tensor:
        n = len(left)
        with torch.autocast(left.device.type, enabled=False):
            unit, length = _unit(left)
            scores = left.new_empty(2, n, n)
            scores[0].addmm_(unit, unit.T, beta=0, alpha=1 / temperature)
            _coarse_scores(teacher, scores[1])
            scores.diagonal(dim1=1, dim2=2).fill_(-1e9)  # finite, because 0 times it has to be 0
            logarithms = scores.log_softmax(2)
            q, p = torch.exp(logarithms, out=scores)
            value = logarithms[0].mul_(p).sum() * (-weight / n)

            gap, factor = q.sub_(p), weight / (n * temperature)
            slope = (gap @ unit).addmm_(gap.T, unit, beta=factor, alpha=factor)
            ctx.save_for_backward(_across(slope, unit, length))
            return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (to_left,) = ctx.saved_tensors
        return to_left * gradient, None, None, None


def _coarse_scores(rows: Tensor, out: Tensor) -> None:
    """Inner products of float32 rows, [n, d] -> [n, n], through bfloat16 where that is faster: within 1% of most."""
    if rows.dtype == torch.float32 and bfloat16_helps(rows.device):
        rows = rows.bfloat16()
        out.copy_(rows @ rows.T)
    else:
        torch.mm(rows, rows.T, out=out)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1, [n, d], and the lengths of `rows`, [n, 1]; a zero row remains zero."""
    length = rows.norm(dim=1, keepdim=True).clamp_min_(1e-12)
    return rows / length, length


def _across(slope: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    """The gradient in rows r = |r| u from the one in their unit rows u: the part that is orthogonal to u, over |r|."""
    along = torch.einsum("ij,ij->i", slope, unit)[:, None]
    return torch.addcmul(slope, unit, along, value=-1).div_(length)


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


def cosines(rows: Tensor) -> Tensor:
    """The cosines of all pairs of rows, [K, d] -> [K, K]; 0 with a zero row."""
    unit = functional.normalize(full_precision(rows), dim=-1)
    with torch.autocast(rows.device.type, enabled=False):
        return unit @ unit.T


def centre_relations(left: Tensor, relations: Tensor, weight: float = 1.0) -> Tensor:
    """mean_{i != j} (cos(left_i, left_j) - relations_ij)^2, times `weight`, over centres [K, d]; `relations` [K, K] are
    the `cosines` of the centres that match them.

    DaRec's L_loc for two sides in different spaces: it compares the relations between centres, not their positions. The
    diagonals of both matrices are 1, so they add nothing to the sum over all pairs.
    """
    return cast("Tensor", _CentreRelations.apply(full_precision(left), full_precision(relations), weight))


class _CentreRelations(torch.autograd.Function):
    """|D|^2 / (K (K - 1)), D = U U' - R with U the unit rows of `left`.

    U_i is in row i and in column i of D, which is symmetric, so the derivative of |D|^2 in U is 4 D U; in R it is -2 D.
    The forward pass computes them, in a third of the operations of autograd.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, relations: Tensor, weight: float) -> Tensor:
        scale = (weight / (len(left) * (len(left) - 1))) ** 0.5
        with torch.autocast(left.device.type, enabled=False):
            unit, length = _unit(left)
            gap = torch.addmm(relations, unit, unit.T, beta=-scale, alpha=scale)  # scale * D
            slope = torch.empty_like(unit).addmm_(gap, unit, beta=0, alpha=4 * scale)
            to_relations = gap * (-2 * scale) if ctx.needs_input_grad[1] else None
            ctx.save_for_backward(_across(slope, unit, length), to_relations)
            return gap.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        to_left, to_relations = (None if each is None else each * gradient for each in ctx.saved_tensors)
        return to_left, to_relations, None


def known(value: Tensor, nodes: Tensor, rows: Tensor, gradient: Tensor) -> Tensor:
    """A loss that was computed before: `value`, with `gradient` [n, d] in `rows` [n] of `nodes` [N, d]."""
    return cast("Tensor", _Known.apply(value, nodes, rows, gradient))


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, nodes: Tensor, rows: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(rows, gradient)
        ctx.shape = nodes.shape
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, None, None]:
        rows, gradient = ctx.saved_tensors
        return None, gradient.new_zeros(ctx.shape).index_add_(0, rows, gradient * outer), None, None
