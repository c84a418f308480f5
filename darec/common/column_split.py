"""Vectors whose columns several processes share: each process holds some columns of every row.

Sums over columns (inner products, lengths) are added up across processes; everything that follows from such sums is
computed alike in each of them. The gradients below rest on that: where all processes compute the same loss from a sum,
the gradient of the sum is complete in each of them, and where a process uses a sum for its own columns only, the
gradients are added up too (as in Shoeybi et al., Megatron-LM, 2019).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class ColumnSplit:
    """Which of the columns this process holds: part `rank` of `size` parts of equal width.

    With one process every method returns its argument. Otherwise all processes must call it, in the same order, in
    the default group of torch.distributed.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates and reports."""
        return self.rank == 0

    def mine(self, width: int) -> slice:
        """The columns of this process out of `width`, which `size` divides."""
        own = width // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def total(self, partial: Tensor) -> Tensor:
        """The sum over processes of what each computed from its columns, for a use that is the same in all of them."""
        return cast("Tensor", _Total.apply(partial)) if self.size > 1 else partial

    def add_up(self, partial: Tensor) -> Tensor:
        """`total` in place and without gradients."""
        if self.size > 1:
            distributed.all_reduce(partial)
        return partial

    def whole(self, rows: Tensor) -> Tensor:
        """All columns of some rows, in every process: [n, d / size] -> [n, d]."""
        return cast("Tensor", _Whole.apply(rows, self)) if self.size > 1 else rows

    def part(self, rows: Tensor) -> Tensor:
        """This process's columns of rows that every process has: [n, d] -> [n, d / size]."""
        return cast("Tensor", _Part.apply(rows, self)) if self.size > 1 else rows

    def normalised(self, rows: Tensor) -> Tensor:
        """Rows of unit length over all columns, [n, d / size] -> [n, d / size]."""
        if self.size == 1:
            return functional.normalize(rows, dim=-1)
        squares = cast("Tensor", _TotalForParts.apply(rows.square().sum(-1, keepdim=True)))
        return rows / squares.clamp_min(1e-24).sqrt()

    def first_only(self, rows: Tensor) -> Tensor | None:
        """All columns, in the first process; None in the others."""
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.size)] if self.is_first else None
        distributed.gather(rows, parts)
        return torch.cat(parts, 1) if parts else None

    def shared(self, values: dict[str, float]) -> dict[str, float]:
        """What the first process says, in every process."""
        if self.size == 1:
            return values
        told = [values]
        distributed.broadcast_object_list(told)
        return told[0]

    def wait(self) -> None:
        """Returns when every process has called it."""
        if self.size > 1:
            distributed.barrier()


UNSPLIT = ColumnSplit()
"""One process that holds everything."""


def _gathered(rows: Tensor, split: ColumnSplit) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(split.size)]
    distributed.all_gather(parts, rows)
    return torch.cat(parts, 1)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor) -> Tensor:
        total = partial.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _TotalForParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor) -> Tensor:
        total = partial.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, split: ColumnSplit) -> Tensor:
        ctx.split = split
        return _gathered(rows.contiguous(), split)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[:, ctx.split.mine(gradient.shape[1])].contiguous(), None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, split: ColumnSplit) -> Tensor:
        ctx.split = split
        return rows[:, split.mine(rows.shape[1])].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient.contiguous(), ctx.split), None
