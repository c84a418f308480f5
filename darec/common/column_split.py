"""Several processes that train one model: each holds some columns of every row, or all of them hold everything.

Sums over columns (inner products, norms) are reduced over all processes, and everything that depends on such sums is
computed identically in each of them. The gradients below rely on this: if all processes compute the same loss from a
sum, the gradient of the sum is complete in each of them; if a process uses a sum for its own columns only, the
gradients are reduced too (as in Shoeybi et al., Megatron-LM, 2019).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class ColumnSplit:
    """The columns that this process holds: part `rank` of `size` parts of equal width.

    With one process every method returns its argument. Otherwise all processes must call it, in the same order, in
    the default group of torch.distributed.
    """

    rank: int = 0
    size: int = 1

    @property
    def parts(self) -> int:
        """Into how many parts the columns are divided."""
        return self.size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates and reports."""
        return self.rank == 0

    def mine(self, width: int) -> slice:
        """The columns of this process out of `width`, a multiple of `parts`."""
        own = width // self.parts
        return slice(self.rank * own, (self.rank + 1) * own)

    def total(self, partial: Tensor) -> Tensor:
        """The sum over processes of `part`, which each computed from its columns, for a use that is the same in all of
        them.
        """
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

    def by_columns(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """The result of a function that treats all columns alike and each by itself: [n, d] -> [n, d]."""
        return function(rows)

    def my_rows(self, count: int) -> slice:
        """The rows that this process works on, out of `count` that all processes work on."""
        return slice(count)

    def add_rows(self, *results: Tensor) -> None:
        """Adds up, in place, what the processes have computed from `my_rows`."""

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replaces gradients, which differ by float noise, by their means, so that parameters stay equal."""
        for gradient in gradients if self.size > 1 else ():
            distributed.all_reduce(gradient)
            gradient.div_(self.size)

    def first_only(self, rows: Tensor) -> Tensor | None:
        """All columns, in the first process; None in the others."""
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.size)] if self.is_first else None
        distributed.gather(rows, parts)
        return torch.cat(parts, 1) if parts else None

    def shared(self, values: dict[str, float]) -> dict[str, float]:
        """The value of the first process, in every process."""
        if self.size == 1:
            return values
        told = [values]
        distributed.broadcast_object_list(told)
        return told[0]

    def wait(self) -> None:
        """Waits until every process has called it."""
        if self.size > 1:
            distributed.barrier()


@dataclass(frozen=True)
class Replicas(ColumnSplit):
    """Processes that hold all columns each, for backbones that mix them.

    All take the same step with the same random numbers, so nothing has to be reduced or gathered. They divide the
    expensive operations: propagation by columns (`by_columns`), and scores of many candidates by rows (`my_rows`).
    """

    @property
    def parts(self) -> int:
        """One: every process has all columns."""
        return 1

    def mine(self, width: int) -> slice:
        """All columns."""
        return slice(width)

    def total(self, partial: Tensor) -> Tensor:
        """The sum as it is: this process has computed it from all columns."""
        return partial

    def add_up(self, partial: Tensor) -> Tensor:
        """`total`."""
        return partial

    def whole(self, rows: Tensor) -> Tensor:
        """The rows as they are."""
        return rows

    def part(self, rows: Tensor) -> Tensor:
        """The rows as they are."""
        return rows

    def normalised(self, rows: Tensor) -> Tensor:
        """Rows of unit length."""
        return functional.normalize(rows, dim=-1)

    def by_columns(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """The function's result, of which each process computes its columns; `size` divides their number."""
        columns = ColumnSplit(self.rank, self.size)
        return columns.whole(function(columns.part(rows)))

    def my_rows(self, count: int) -> slice:
        """Every process has about as many."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def add_rows(self, *results: Tensor) -> None:
        """Each result holds zeros, or parts of a sum, where other processes have computed the rest."""
        for result in results:
            summed = result.contiguous()
            distributed.all_reduce(summed)
            result.copy_(summed)

    def first_only(self, rows: Tensor) -> Tensor | None:
        """The rows, in the first process; None in the others."""
        return rows if self.is_first else None


UNSPLIT = ColumnSplit()
"""A single process, which holds all columns."""


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
