"""The state of a training run in one safetensors file, replaced atomically. A resumed run gives exactly the same
result.
"""

import errno
import json
import os
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from darec.common.column_split import ColumnSplit
from darec.common.errors import DarecError, UserError
from darec.common.files import replacing

State = dict[str, Any]
"""Nested dicts with string keys whose leaves are tensors or JSON values."""

SPLIT = "embedding"
"""The parameter whose columns are distributed over processes; all others are equal in each process."""

_META = "state"
_SPLIT_STATE = (("model", SPLIT), ("best", SPLIT), ("optimizer", "0", "exp_avg"), ("optimizer", "0", "exp_avg_sq"))


def save(state: State, path: Path) -> None:
    """Writes tensors as tensors and everything else as JSON in the file's header, which safetensors limits to 100 MB.

    Raises:
        UserError: the disk is full.
        DarecError: the folder is not writable.
    """
    tensors: dict[str, Tensor] = {}
    values = _without_tensors(state, "", tensors)
    try:
        # The draft has a fixed name, so that the draft of a killed run is overwritten.
        with replacing(path, draft=path.with_suffix(".partial"), durable=True) as draft:
            save_file(tensors, draft, metadata={_META: json.dumps(values)})
    except (SafetensorError, OSError) as error:
        hint = "free space (`darec gc`) and run again: training continues from the previous checkpoint"
        if os.strerror(errno.ENOSPC) in str(error):
            raise UserError("the checkpoint cannot be written: the disk is full", where=str(path), hint=hint) from error
        raise DarecError(f"the checkpoint cannot be written ({error})", where=str(path), hint=hint) from error


def load(path: Path) -> State | None:
    """The value that `save` wrote, with tensors on the CPU; None if there is no file.

    Raises:
        DarecError: the file is not a checkpoint.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_META])
            return _join(values, "", {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise DarecError(f"the checkpoint cannot be read ({error})", where=str(path), hint="delete it") from error


def save_columns(state: State, path: Path, split: ColumnSplit) -> None:
    """Like `save`, for several processes.

    Each writes its own columns; the first one also writes everything else, which makes the checkpoint valid. The files
    of the other processes have the epoch in their names, so that a run that is killed at any moment leaves a complete
    checkpoint.
    """
    if split.size == 1:
        save(state, path)
        return

    if split.is_first:
        split.wait()
        save(state | {"processes": split.parts}, path)
    elif split.parts == 1:
        split.wait()
    else:
        columns = {"/".join(place): value for place, value in _columns(state)}
        save(columns, _part(path, split.rank, state["epoch"]))
        split.wait()

    split.wait()
    for rank in range(1, split.parts) if split.is_first else ():
        for part in path.parent.glob(_part(path, rank, "*").name):
            if part != _part(path, rank, state["epoch"]):
                part.unlink(missing_ok=True)


def load_columns(path: Path, split: ColumnSplit) -> State | None:
    """The value that `save_columns` wrote, with the columns of this process. The number of processes may differ."""
    state = load(path)
    if state is None or split.parts == state.get("processes", 1) == 1:
        return state

    parts = [load(_part(path, rank, state["epoch"])) for rank in range(1, state.get("processes", 1))]
    for place, first in _columns(state):
        others = [part["/".join(place)] for part in parts if part is not None]
        if len(others) < len(parts):
            raise DarecError("a part of the checkpoint is missing", where=str(path), hint="delete it")
        whole = torch.cat([first, *others], 1)
        *outer, last = place
        reduce(getitem, outer, state)[last] = whole[:, split.mine(whole.shape[1])].clone()

    return state


def _columns(state: State) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yields the tensors of a state whose columns are distributed over processes, each with its path."""
    if SPLIT not in state["model"]:
        return
    for place in _SPLIT_STATE:
        value = reduce(lambda inner, key: inner.get(key, {}), place, state)
        if isinstance(value, Tensor):
            yield place, value


def _part(path: Path, rank: int, epoch: int | str) -> Path:
    return path.with_name(f"{path.stem}.part-{rank}-{epoch}{path.suffix}")


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` without its tensors, which are moved to `tensors` by their path and replaced by null."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return None
    if isinstance(value, dict):
        return {key: _without_tensors(each, f"{name}/{key}", tensors) for key, each in value.items()}
    return value


def _join(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if name in tensors:
        return tensors[name]
    if isinstance(value, dict):
        return {key: _join(each, f"{name}/{key}", tensors) for key, each in value.items()}
    return value


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Moments and step counts of every parameter, by its number; hyper-parameters come from the configuration."""
    return {str(number): dict(state) for number, state in optimizer.state_dict()["state"].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """The reverse of `optimizer_state`."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(number): each for number, each in state.items()}, "param_groups": groups})


def random_state(device: torch.device) -> State:
    """The state of torch's global generators that training on `device` uses."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def restore_random(state: State, device: torch.device) -> None:
    """The reverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
