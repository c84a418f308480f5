"""How long an epoch takes, and for which part of it the GPU works."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from darec.common.interactions import Interactions, Pairs, Representations
from darec.training import Trainer

USERS, ITEMS, PAIRS, TEXT = 22_363, 12_101, 139_692, 384
"""The size of Amazon Beauty, which has 35 steps of 4,096 pairs."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch takes."""

    milliseconds: float
    """The median of several."""
    busy: float
    """The share of this time in which the device works."""
    operations: int
    """Kernels and copies on the device."""


def beauty_sized(scale: float = 1.0) -> tuple[Interactions, Representations]:
    """A log of Beauty's size with popular items, and text vectors, drawn at random: speed does not depend on values."""
    generator = torch.Generator().manual_seed(0)
    n_users, n_items, pairs = (round(scale * size) for size in (USERS, ITEMS, PAIRS))
    users = torch.randint(n_users, (pairs,), generator=generator)
    items = (torch.rand(pairs, generator=generator) ** 2 * n_items).long()
    keys = torch.unique(users * n_items + items)
    train = Pairs(keys // n_items, keys % n_items)
    val = Pairs(torch.arange(n_users), torch.randint(n_items, (n_users,), generator=generator))
    data = Interactions(n_users, n_items, train, val, Pairs(val.users[:0], val.items[:0]))
    text = torch.randn(data.n_nodes, round(scale * TEXT), generator=generator)
    return data, Representations(text, n_users)


def measured(trainer: Trainer, epochs: int = 9) -> Epoch:
    """An epoch of this trainer, after some that choose kernels, take memory and record a step."""
    for _ in range(3):
        trainer.run_epoch()

    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        trainer.run_epoch()  # at its end it reads its losses, so the device has finished
        seconds.append(time.perf_counter() - started)

    on_gpu = trainer.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        trainer.run_epoch()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [each for each in recorded.events() if each.device_type == wanted and not each.is_user_annotation]
    working = covered((each.time_range.start, each.time_range.end) for each in events) / 1e6
    return Epoch(1000 * median(seconds), working / median(seconds), len(events))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what spans of time cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
