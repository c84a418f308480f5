"""How busy training keeps a GPU, on a log of Beauty's size; skipped without one."""

from dataclasses import asdict

import pytest
import torch

from darec.model import clustering
from darec.training import Trainer
from darec.training.trainer import validate
from schemas.alignment import DaRecConfig
from schemas.training import TrainConfig
from tests.gpu.speed import Epoch, beauty_sized, covered, measured

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALIGNMENTS = {"plain": (), "DaRec": (DaRecConfig(),)}


def trainer(alignment, device, scale=1.0, **settings):
    data, text = beauty_sized(scale)
    torch.manual_seed(0)
    config = TrainConfig(alignment=alignment, device=device, **settings)
    return Trainer(config, data, text, None, torch.device(device))


@pytest.fixture(scope="module")
def epochs() -> dict[str, Epoch]:
    """Each with a recorded step."""
    return {name: measured(trainer(alignment, "cuda")) for name, alignment in ALIGNMENTS.items()}


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_kernels_run_for_most_of_an_epoch(name, epochs, figures):
    figures[f"epoch, {name}"] = asdict(epochs[name])
    single = trainer(ALIGNMENTS[name], "cuda", cuda_graphs=False)
    figures[f"epoch, {name}, single launches"] = asdict(measured(single))
    assert epochs[name].busy >= 0.7


@pytest.mark.gpu
@GPU
def test_an_epoch_is_short(epochs):
    assert epochs["plain"].milliseconds <= 25
    assert epochs["DaRec"].milliseconds <= 1.5 * 25


@pytest.mark.gpu
@GPU
def test_darec_adds_half_an_epoch_at_most(epochs):
    assert epochs["DaRec"].milliseconds <= 1.5 * epochs["plain"].milliseconds


@pytest.mark.gpu
@GPU
def test_validation_ranks_on_the_gpu_what_the_cpu_ranks(figures):
    started = torch.cuda.Event(enable_timing=True)
    ended = torch.cuda.Event(enable_timing=True)
    at_gpu = trainer((), "cuda")
    final = at_gpu.model.represent()
    validate(final, at_gpu.interactions)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started.record()
    found = validate(final, at_gpu.interactions)
    ended.record()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before > 2**20, "scores are on the device"
    figures["validation, all users"] = {"milliseconds": started.elapsed_time(ended)}
    cpu = torch.device("cpu")
    assert found == pytest.approx(validate(final.to(cpu), at_gpu.interactions.to(cpu)), abs=1e-4)


@pytest.mark.gpu
@GPU
def test_kmeans_and_matching_on_the_gpu_are_those_of_the_cpu():
    torch.manual_seed(0)
    centres = 10 * torch.randn(8, 32)
    rows = centres.repeat(200, 1) + torch.randn(1600, 32)
    cost = torch.rand(8, 8)
    on_gpu = rows.cuda(), rows[:8].cuda(), cost.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        clustering.initial_centres(on_gpu[0], 8, fixed=True)
        found = clustering.kmeans(*on_gpu[:2], 20, fixed=True)
        partners = [clustering.match(on_gpu[2], how, fixed=True) for how in ("optimal", "greedy")]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), clustering.kmeans(rows, rows[:8], 20), rtol=1e-4, atol=1e-4)
    assert [each.tolist() for each in partners] == [
        clustering.match(cost, how).tolist() for how in ("optimal", "greedy")
    ]


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_an_epoch_is_measured_on_the_cpu_as_on_the_gpu(name):
    found = measured(trainer(ALIGNMENTS[name], "cpu", 0.02, batch_size=64), epochs=1)
    assert found.milliseconds > 0 and 0 < found.busy < 20 and found.operations > 100


def test_what_spans_of_time_cover_is_counted_once():
    assert covered([(0, 2), (1, 3), (1.5, 2.5), (5, 6)]) == 4
    assert covered([]) == 0


def test_figures_are_written_with_the_name_of_the_gpu(tmp_path):
    from tests.gpu.conftest import write

    path = write(tmp_path, "NVIDIA H200", {"epoch, plain": {"busy": 0.8}})
    assert path.name == "NVIDIA-H200.json" and '"busy": 0.8' in path.read_text()
