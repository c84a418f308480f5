"""What a CUDA device does must be what the CPU does; skipped without one."""

from typing import get_args

import pytest
import torch

from darec.evaluation.protocol import rank
from darec.evaluation.report import report
from darec.training import train
from schemas.alignment import AlignmentConfig, DaRecConfig
from schemas.backbones import BackboneConfig
from schemas.training import EvaluateConfig, TrainConfig
from tests.checkerboard import checkerboard, parity_text

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
BACKBONES = [each() for each in get_args(get_args(BackboneConfig)[0])]
OBJECTIVES = [each() for each in get_args(get_args(AlignmentConfig)[0])]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return checkerboard(tmp_path_factory.mktemp("checkerboard"))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda config: config.name)
def test_a_backbone_learns_the_checkerboard(backbone, data):
    config = TrainConfig(backbone=backbone, alignment=(), epochs=30, patience=30, dim=8, batch_size=128)
    config = config.model_copy(update={"learning_rate": 0.02, "device": "cuda"})
    ranking = rank(train(config, data).final, data.train, data.test, 1)
    right = dict(zip(data.test.users.tolist(), data.test.items.tolist(), strict=True))
    hits = [right[user] == top[0] for user, top in zip(ranking.users.tolist(), ranking.top.tolist(), strict=True)]
    assert sum(hits) / len(hits) >= 0.9


@pytest.mark.parametrize("objective", [*OBJECTIVES, DaRecConfig(sides="joint")], ids=lambda config: config.name)
def test_an_objective_trains(objective, data):
    config = TrainConfig(alignment=(objective,), epochs=3, dim=8, batch_size=128, device="cuda")
    final = train(config, data, parity_text(data)).final
    assert final.nodes.device.type == "cpu"
    assert torch.isfinite(final.nodes).all()


def test_a_report_is_that_of_the_cpu(data):
    final, other = (train(TrainConfig(alignment=(), epochs=3, seed=seed, dim=8), data).final for seed in (0, 1))
    on_cpu, on_gpu = (report(final, other, data, EvaluateConfig(device=device)) for device in ("cpu", "cuda"))
    assert on_gpu.metrics["test"] == pytest.approx(on_cpu.metrics["test"], abs=1e-6)
    assert on_gpu.per_user.columns == on_cpu.per_user.columns
