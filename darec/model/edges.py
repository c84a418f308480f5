"""Sparse matrices over nodes with differentiable values, for graph attention.

Values are float32 [E], one per entry in row order. The two products are each other's gradients. With g_rc the gradient
in the score s_rc = left_r . right_c, the gradient in left_r is sum_c g_rc right_c and that in right_c is
sum_r g_rc left_r: sums weighted by g and by its transpose. With g_r the gradient in the sum y_r = sum_c v_rc x_c, the
gradient in v_rc is g_r . x_c, a score, and that in x_c is sum_r v_rc g_r.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from darec.model.propagation import Adjacency, multiply


class Pattern:
    """The entries of a square matrix over N nodes, which are symmetric: with (r, c) there is (c, r)."""

    def __init__(self, keys: Tensor, nodes: int) -> None:
        """`keys` are the entries' row * N + column, int64 [E], ascending and distinct."""
        self.nodes = nodes
        self.rows, self.columns = keys // nodes, keys % nodes
        self.reverse = torch.argsort(self.columns * nodes + self.rows)
        """The number of entry (c, r) for each entry (r, c)."""
        counts = torch.bincount(self.rows, minlength=nodes)
        self._starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        self._columns = self.columns.int()

    @classmethod
    def of(cls, adjacency: Adjacency) -> "Pattern":
        """The entries of `adjacency`."""
        rows, columns = adjacency.entries()
        nodes = len(adjacency.matrix)
        return cls(rows * nodes + columns, nodes)

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self, values: Tensor) -> Tensor:
        """The CSR matrix with these values."""
        size = (self.nodes, self.nodes)
        return torch.sparse_csr_tensor(self._starts, self._columns, values, size=size, check_invariants=False)

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums of each row's values, [E, ...] -> [N, ...]."""
        return values.new_zeros(self.nodes, *values.shape[1:]).index_add(0, self.rows, values)

    def row_shares(self, values: Tensor) -> Tensor:
        """Each value divided by the sum of its row, [E, ...] -> [E, ...]; rows with sum 0 remain 0."""
        return values / self.row_sums(values).clamp_min(1e-8)[self.rows]


def edge_scores(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """left_r . right_c at each entry (r, c): [N, d], [N, d] -> [E]."""
    return _Scores.apply(left, right, pattern)  # type: ignore[return-value]


def weighted_sum(pattern: Pattern, values: Tensor, nodes: Tensor) -> Tensor:
    """The product of the matrix with `values` and the rows of `nodes`: [E], [N, d] -> [N, d]."""
    return _Sum.apply(values, nodes, pattern)  # type: ignore[return-value]


def _scores(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    dtype = torch.promote_types(left.dtype, torch.float32)
    zeros = pattern.matrix(torch.zeros(len(pattern), dtype=dtype, device=left.device))
    with torch.autocast(left.device.type, enabled=False):
        return torch.sparse.sampled_addmm(zeros, left.to(dtype), right.to(dtype).T, beta=0.0).values()


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        return _scores(pattern, left, right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        pattern, (left, right) = ctx.pattern, ctx.saved_tensors
        to_left = multiply(pattern.matrix(gradient), right)
        return to_left, multiply(pattern.matrix(gradient[pattern.reverse]), left), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, nodes: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, nodes)
        return multiply(pattern.matrix(values), nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        pattern, (values, nodes) = ctx.pattern, ctx.saved_tensors
        gradient = gradient.contiguous()
        to_values = _scores(pattern, gradient, nodes) if ctx.needs_input_grad[0] else None
        return to_values, multiply(pattern.matrix(values[pattern.reverse]), gradient), None
