"""Log-sum-exp of inner products without storing their matrix, for softmax losses over many candidates.

With scores s_bj = r_b . c_j and shares p_bj = e^(s_bj) / sum_k e^(s_bk), the gradients of l_b = log sum_j e^(s_bj) are
dl_b/dr_b = sum_j p_bj c_j and dl_b/dc_j = p_bj r_b: sums over candidates or rows, which can be accumulated block by
block. Each block of rows is scored, reduced and discarded (as in Dao et al., FlashAttention, 2022). Memory is that of
one block, and on a CPU the block stays in the cache, which is about three times as fast.

`log_sum_exp` returns the value of every row, and scores each block again in the backward pass, where the gradients of
the rows are known. `mean_log_sum_exp` and `distillation` return one number, so the gradients are known in the forward
pass up to one factor, and each block is scored once.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from darec.common.column_split import UNSPLIT, ColumnSplit

_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 26}  # scores per block: the size of a core's cache, and enough work for a GPU
_FEWEST_ROWS = 16  # rows per block where candidates are many: each block passes over all of them


def _rows_per_block(columns: Tensor) -> int:
    """A multiple of 8 if there are as many: products of other numbers of rows take up to three times as long."""
    size = max(_FEWEST_ROWS, _BLOCK[columns.device.type] // len(columns))
    return size - size % 8 or size


def log_sum_exp(
    rows: Tensor, columns: Tensor, skipped: tuple[Tensor, Tensor] | None = None, split: ColumnSplit = UNSPLIT
) -> Tensor:
    """log sum_j e^(r_b . c_j), float32 [B, d], [m, d] -> [B].

    Args:
        rows: the anchors.
        columns: the candidates; temperatures are already applied to the rows.
        skipped: (row, column) numbers, int64 [s] each, ascending by row, of candidates that a row excludes.
        split: the columns of this process, if several processes share them.
    """
    if skipped is None:
        empty = torch.empty(0, dtype=torch.int64, device=rows.device)
        skipped = empty, empty
    with torch.autocast(rows.device.type, enabled=False):
        return _LogSumExp.apply(rows.float(), columns.float(), *skipped, split)  # type: ignore[return-value]


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, skipped_row: Tensor, skipped_column: Tensor, split: ColumnSplit
    ) -> Tensor:
        ctx.split = split
        out = rows.new_empty(len(rows))
        for block, scores in _blocks(rows, columns, skipped_row, skipped_column, split):
            out[block] = torch.logsumexp(scores, 1)
        ctx.save_for_backward(rows, columns, skipped_row, skipped_column, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, columns, skipped_row, skipped_column, out = ctx.saved_tensors
        out = out.clamp_min(torch.finfo(out.dtype).min)  # a row without candidates: its shares are 0, not NaN
        to_rows, to_columns = torch.empty_like(rows), torch.zeros_like(columns)
        for block, scores in _blocks(rows, columns, skipped_row, skipped_column, ctx.split):
            shares = scores.sub_(out[block, None]).exp_().mul_(gradient[block, None])
            torch.mm(shares, columns, out=to_rows[block])
            to_columns.addmm_(shares.T, rows[block])
        return to_rows, to_columns, None, None, None


def _blocks(
    rows: Tensor, columns: Tensor, skipped_row: Tensor, skipped_column: Tensor, split: ColumnSplit
) -> Iterator[tuple[slice, Tensor]]:
    """Yields the scores of blocks of rows, -inf for excluded candidates; the caller may overwrite the tensor."""
    size = _rows_per_block(columns)
    starts = torch.arange(0, len(rows) + size, size, device=rows.device)
    cuts = torch.searchsorted(skipped_row, starts).tolist()
    for number, first in enumerate(range(0, len(rows), size)):
        block = slice(first, first + size)
        scores = split.add_up(rows[block] @ columns.T)
        some = slice(cuts[number], cuts[number + 1])
        scores[skipped_row[some] - first, skipped_column[some]] = -torch.inf
        yield block, scores


def mean_log_sum_exp(
    anchor: Tensor, candidates: Tensor, counts: Tensor | None = None, split: ColumnSplit = UNSPLIT
) -> Tensor:
    """mean_b log sum_j e^(a_b . c_j); anchor [B, d], candidates [m, d]; counts [B] weight the anchors.

    The [B, m] matrix is computed a block of rows at a time, its gradients along with it, and never kept: a third of
    the time and a hundredth of the memory of the plain expression. Processes that hold all columns compute some of the
    anchors each.
    """
    weights = torch.ones(len(anchor), device=anchor.device) if counts is None else counts
    with torch.autocast(anchor.device.type, enabled=False):
        anchor = full_precision(anchor)
        weights = (weights / weights.sum()).to(anchor.dtype)
        return _MeanLogSumExp.apply(anchor, candidates.to(anchor.dtype), weights, split)  # type: ignore[return-value]


def full_precision(rows: Tensor) -> Tensor:
    """The rows in at least float32, regardless of autocast."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


class _MeanLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, candidates: Tensor, weights: Tensor, split: ColumnSplit) -> Tensor:
        mine = split.my_rows(len(anchor))
        to_anchor = torch.zeros_like(anchor)
        columns = candidates.T.contiguous()
        to_candidates = torch.zeros_like(columns) if ctx.needs_input_grad[1] else None  # texts are frozen

        log_sums = []
        block = _rows_per_block(candidates)
        parts = (part[mine].split(block) for part in (anchor, weights, to_anchor))
        for rows, weight, gradient in zip(*parts, strict=True):
            scores = split.add_up(rows @ columns)
            greatest = scores.amax(1, keepdim=True)
            powers = scores.sub_(greatest).exp_()
            sums = powers.sum(1, keepdim=True)
            log_sums.append((sums.log() + greatest).squeeze(1))

            # d/da_b = w_b sum_j p_bj c_j and d/dc_j = sum_b w_b p_bj a_b, p_bj = powers / sums.
            scale = weight[:, None] / sums
            torch.mul(powers @ candidates, scale, out=gradient)
            if to_candidates is not None:
                to_candidates.addmm_((rows * scale).T.contiguous(), powers)

        mean = torch.cat(log_sums) @ weights[mine]
        split.add_rows(*(each for each in (mean, to_anchor, to_candidates) if each is not None))
        ctx.save_for_backward(to_anchor, to_candidates)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        to_anchor, to_candidates = ctx.saved_tensors
        return to_anchor * gradient, None if to_candidates is None else to_candidates.T * gradient, None, None


def distillation(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], weights: Tensor, split: ColumnSplit = UNSPLIT
) -> Tensor:
    """-sum_b w_b sum_j p_bj log q_bj with q_b = softmax_j(u_b . v_j) of the student and p_b = softmax_j(t_b . c_j) of
    the teacher, which is frozen.

    Args:
        student: rows u [B, d] and columns v [m, d]; temperatures are already applied to the rows, here and in
            `teacher`.
        teacher: rows t [B, d'] and columns c [m, d'].
        weights: w [B].
        split: the columns of the student that this process holds, or the rows that it computes.
    """
    rows, columns = (full_precision(each) for each in student)
    with torch.autocast(rows.device.type, enabled=False):
        frozen = *map(full_precision, teacher), weights.to(rows.dtype)
        return _Distillation.apply(rows, columns, *frozen, split)  # type: ignore[return-value]


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        teacher_rows: Tensor,
        teacher_columns: Tensor,
        weights: Tensor,
        split: ColumnSplit,
    ) -> Tensor:
        mine = split.my_rows(len(rows))
        to_rows = torch.zeros_like(rows)
        to_columns = torch.zeros_like(columns.T)
        total = rows.new_zeros(())

        block = _rows_per_block(columns)
        parts = (part[mine].split(block) for part in (rows, teacher_rows, weights, to_rows))
        for own, wanted, weight, gradient in zip(*parts, strict=True):
            scores = split.add_up(own @ columns.T)
            q = scores.softmax(1)
            p = (wanted @ teacher_columns.T).softmax(1)

            # Shares sum to 1, so -sum_j p_j log q_j = l - sum_j p_j s_j with l = s_k - log q_k, here of the greatest q.
            log_sums = scores.amax(1) - q.amax(1).log()
            total += weight @ (log_sums - torch.linalg.vecdot(p, scores))

            # The derivative in a score of the student is w_b (q_bj - p_bj).
            gap, scale = q.sub_(p), weight[:, None]
            torch.mul(gap @ columns, scale, out=gradient)
            to_columns.addmm_((own * scale).T.contiguous(), gap)

        split.add_rows(total, to_rows, to_columns)
        ctx.save_for_backward(to_rows, to_columns)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        to_rows, to_columns = ctx.saved_tensors
        return to_rows * gradient, to_columns.T * gradient, None, None, None, None
