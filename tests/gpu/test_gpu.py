"""Training and ranking on a CUDA device; skipped without one."""

from typing import get_args

import pytest
import torch
from polars.testing import assert_frame_equal

from darec.evaluation.report import report
from darec.training import Trainer, train
from darec.training.replay import Terms, cuda_graph
from schemas.alignment import AlignmentConfig, DaRecConfig
from schemas.backbones import BackboneConfig, LightGCNConfig, NGCFConfig, PopularityConfig, SGLConfig
from schemas.training import EvaluateConfig, TrainConfig
from tests.checkerboard import checkerboard, found_first, losses_of, parity_text

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
BACKBONES = [each() for each in get_args(get_args(BackboneConfig)[0]) if each is not PopularityConfig]
QUICK = {"dim": 8, "batch_size": 128, "learning_rate": 0.02, "device": "cuda"}
OBJECTIVES = [each() for each in get_args(get_args(AlignmentConfig)[0])]
_SAMPLED = {"name": "sampled-softmax", "negatives": 16}
OPTIONS = {
    "a text graph": {"text": {"neighbours": 3}},
    "edges by degree": {"backbone": {"name": "lightgcn", "edge_keep": 0.8, "edge_sampling": "degree"}},
    "cosines": {"loss": _SAMPLED, "scoring": "cosine"},
    "several positives": {"loss": _SAMPLED | {"positives": 2}, "scoring": "cosine"},
    "text and graph columns": {"fuse": {"components": 4, "graph": 4}},
    "a student": {
        "alignment": [{"name": "linear-teacher", "model": {"name": "l3ae", "graph": 0.3}}],
        "ranking_weight": 0,
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.name)
def test_a_backbone_learns_the_checkerboard(backbone, data):
    config = TrainConfig(backbone=backbone, alignment=(), epochs=30, patience=30, **QUICK)
    text = parity_text(data) if config.needs_text else None
    assert found_first(train(config, data, text), data) >= 0.9


@pytest.mark.parametrize("objective", [*OBJECTIVES, DaRecConfig(sides="joint")], ids=lambda config: config.name)
def test_an_objective_learns(objective, data):
    config = TrainConfig(alignment=(objective,), epochs=12, patience=12, **QUICK)
    trained = train(config, data, parity_text(data))
    trace = losses_of(trained)
    assert trace[-1] < trace[0]
    assert trained.final.nodes.device.type == "cpu"


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_an_option_learns_the_checkerboard(settings, data):
    config = TrainConfig.model_validate({"alignment": [], "epochs": 30, "patience": 30, **QUICK, **settings})
    assert found_first(train(config, data, parity_text(data)), data) >= 0.9


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(data, tmp_path):
    config = TrainConfig(epochs=6, patience=6, eval_every=1, checkpoint_every=1, **QUICK)

    def die(epoch, values):
        if epoch == 4:
            raise KilledError

    text, path = parity_text(data), tmp_path / "checkpoint.safetensors"
    with pytest.raises(KilledError):
        train(config, data, text, resume=path, listener=die)
    resumed, whole = train(config, data, text, resume=path), train(config, data, text)
    assert losses_of(resumed) == pytest.approx(losses_of(whole), rel=1e-4)


@pytest.mark.parametrize("alignment", [(), (DaRecConfig(),)], ids=["plain", "DaRec"])
def test_a_cuda_graph_gives_the_losses_of_single_launches(alignment, data, caplog):
    config = TrainConfig(alignment=alignment, epochs=4, patience=9, **QUICK)
    single = train(config.model_copy(update={"cuda_graphs": False}), data, parity_text(data))
    with caplog.at_level("INFO"):
        replayed = train(config, data, parity_text(data))
    assert "cannot be recorded" not in caplog.text
    assert losses_of(replayed) == pytest.approx(losses_of(single), rel=1e-3)


def test_steps_go_on_after_a_recording_that_fails():
    stream, noise = torch.cuda.current_stream(), torch.rand(8, device="cuda")
    with pytest.raises(RuntimeError):
        cuda_graph(lambda: Terms(("loss",), torch.rand(1, device="cuda") + noise.sum().item()))
    assert torch.cuda.current_stream() == stream
    assert torch.rand(8, device="cuda").sum().item() > 0


@pytest.mark.parametrize("recorded", [False, True], ids=["single launches", "recorded"])
@pytest.mark.parametrize("alignment", [(), (DaRecConfig(),)], ids=["plain", "DaRec"])
def test_no_step_waits_for_the_gpu(alignment, recorded, data):
    config = TrainConfig(alignment=alignment, cuda_graphs=recorded, **QUICK)
    trainer = Trainer(config, data, parity_text(data), None, torch.device("cuda"))
    trainer.run_epoch()  # makes the optimiser's state, and the recording
    trainer.model.train()
    trainer.model.start_epoch(trainer.epoch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in trainer.sampler.epoch():
            trainer._step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("backbone", [LightGCNConfig(), NGCFConfig(), SGLConfig()], ids=lambda config: config.name)
def test_two_gpus_give_the_losses_of_one(backbone, data):
    config = TrainConfig(backbone=backbone, epochs=3, **QUICK)
    one = train(config, data, parity_text(data))
    two = train(config.model_copy(update={"processes": 2}), data, parity_text(data))
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-3)


def test_a_report_is_that_of_the_cpu(data):
    final, other = (train(TrainConfig(alignment=(), epochs=3, seed=seed, dim=8), data).final for seed in (0, 1))
    on_cpu, on_gpu = (report(final, other, data, EvaluateConfig(device=device)) for device in ("cpu", "cuda"))
    for name in ("test", "validation", "reference"):
        assert on_gpu.metrics[name] == pytest.approx(on_cpu.metrics[name], abs=1e-6)
    assert_frame_equal(on_gpu.per_user, on_cpu.per_user)
