"""Epochs and rankings of large logs on a GPU; skipped without one."""

import time

import pytest
import torch

from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import rank
from darec.training import Trainer
from schemas.alignment import DaRecConfig
from schemas.training import TrainConfig

TEXT, RANKED = 384, 200_000
CUDA = torch.device("cuda")


def skewed(nodes: int, draws: int, device: torch.device) -> Interactions:
    """A log of as many users as items, most of whose interactions are those of a few; validation has one per user."""
    generator = torch.Generator(device=device).manual_seed(0)
    users, items = (
        (nodes * torch.rand(draws, generator=generator, device=device, dtype=torch.float64) ** power).long()
        for power in (1.5, 2.5)
    )
    keys = torch.unique(users * nodes + items).cpu()
    held_out = Pairs(torch.arange(nodes), torch.randint(nodes, (nodes,)))
    return Interactions(nodes, nodes, Pairs(keys // nodes, keys % nodes), held_out, held_out)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("nodes", "draws", "aligned"),
    [(500_000, 22_000_000, False), (500_000, 22_000_000, True), (10**6, 54_000_000, False)],
)
def test_an_epoch_of_a_large_log_takes_seconds(nodes, draws, aligned, figures):
    data = skewed(nodes, draws, CUDA)
    text = Representations(torch.randn(2 * nodes, TEXT), nodes) if aligned else None
    config = TrainConfig(alignment=(DaRecConfig(),) if aligned else (), dim=64, device="cuda", log_steps=0)
    torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, data, text, None, CUDA)
    for _ in range(3):
        started = time.perf_counter()
        trainer.run_epoch()
    seconds, memory = time.perf_counter() - started, torch.cuda.max_memory_allocated() / 2**30

    name = f"{len(data.train) / 1e6:.0f}M pairs{', DaRec' if aligned else ''}"
    figures[f"epoch, {name}"] = {"seconds": seconds, "GiB": memory, "batch": trainer.batch_size}
    assert seconds < 20

    if not aligned:
        some = Pairs(data.val.users[:RANKED].to(CUDA), data.val.items[:RANKED].to(CUDA))
        started = time.perf_counter()
        assert len(rank(trainer.model.represent(), trainer.interactions.train, some, 20).users) == RANKED
        torch.cuda.synchronize()
        figures[f"ranking of {RANKED:,} users, {nodes:,} items"] = {"seconds": time.perf_counter() - started}


def test_a_large_log_has_about_as_many_pairs_as_drawn():
    data = skewed(2000, 20_000, torch.device("cpu"))
    assert 18_000 < len(data.train) <= 20_000 and len(data.val) == 2000
