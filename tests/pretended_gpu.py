"""A device that computes nothing: tensors of PyTorch's device "meta", which have shapes and no values.

What needs a value fails there: to read a number, a mask as an index, `torch.unique`. So does what mixes the device with
the CPU. On a GPU these are the operations for which the host waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from darec.model import propagation

DEVICE = torch.device("meta")


class _Matrix:
    """In place of a sparse matrix."""

    def __init__(self, starts: Tensor, columns: Tensor, values: Tensor, size: int) -> None:
        self._starts, self._columns, self._values, self._size = starts, columns, values, size

    def __len__(self) -> int:
        return self._size

    def crow_indices(self) -> Tensor:
        return self._starts

    def col_indices(self) -> Tensor:
        return self._columns

    def values(self) -> Tensor:
        return self._values


def _parts(matrix: Tensor) -> list[Tensor]:
    return [part.to(DEVICE) for part in (matrix.crow_indices(), matrix.col_indices(), matrix.values())]


class _Copies(TorchDispatchMode):
    """Fails where a number of the host would be copied to the device, or a whole tensor, in the middle of a step."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])]
        devices = {each.device.type: each for each in flat if isinstance(each, Tensor)}
        name = func._schema.name.removeprefix("aten::")
        if len(devices) > 1 and (devices["cpu"].dim() or name == "where"):
            raise RuntimeError(f"{name} copies to the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def moved(*objects: Any) -> Iterator[None]:
    """Whatever tensors the objects hold are on the device inside the block, and stay there."""
    seen = dict[int, Any]()
    for each in objects:
        _move(each, seen)
    with pytest.MonkeyPatch.context() as patch:
        # There are no sparse matrices and there is no autocast on this device.
        patch.setattr(propagation, "_csr", _Matrix)
        patch.setattr(propagation, "multiply", lambda matrix, nodes: nodes * matrix.values().sum())
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        with _Copies():
            yield


def _move(value: Any, seen: dict[int, Any]) -> Any:
    """What takes the place of a value; objects and containers are changed in place."""
    if id(value) in seen:
        return seen[id(value)]
    made = value
    if isinstance(value, nn.Parameter):
        made = nn.Parameter(value.detach().to(DEVICE))
    elif isinstance(value, Tensor):
        sparse = value.layout == torch.sparse_csr
        made = _Matrix(*_parts(value), len(value)) if sparse else value.detach().to(DEVICE)
    elif isinstance(value, torch.device):
        made = DEVICE
    seen[id(value)] = made
    seen[id(made)] = made
    if isinstance(value, dict):
        entries = [
            (_move(key, seen) if isinstance(key, Tensor) else key, _move(each, seen)) for key, each in value.items()
        ]
        value.clear()
        value.update(entries)
    elif isinstance(value, list):
        value[:] = [_move(each, seen) for each in value]
    elif isinstance(value, tuple):
        made = seen[id(value)] = tuple(_move(each, seen) for each in value)
    elif isinstance(value, torch.optim.Optimizer | nn.Module) or type(value).__module__.startswith("darec."):
        for name, inner in list(getattr(value, "__dict__", {}).items()):
            object.__setattr__(value, name, _move(inner, seen))
    return made
