"""Item indexes built on a GPU: `pytest -m gpu tests/gpu/test_index_gpu.py` with faiss-gpu; skipped without."""

import faiss
import numpy as np
import pytest

from darec.serving import index_build
from darec.serving.index import nothing_seen, read, search
from darec.serving.index_build import build_file
from schemas.release import ExportConfig
from tests.unit.test_index import clustered

GPUS = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="no FAISS for GPUs, or no GPU")]


@pytest.mark.parametrize("shard_items", [10_000_000, 60_000])
def test_an_index_built_on_the_gpu_finds_what_one_built_on_the_cpu_finds(shard_items, tmp_path, monkeypatch, figures):
    vectors, queries = clustered(150_000, width=32, clusters=500), clustered(500, width=32, clusters=500, seed=4)
    config = ExportConfig(index="ivf", shard_items=shard_items)
    found, reports = [], []
    for name, least in (("gpu", 100_000), ("cpu", 10**9)):
        monkeypatch.setattr(index_build, "_WORTH_A_GPU", least)
        reports.append(build_file(vectors, queries, config, tmp_path / f"{name}.faiss"))
        # The file is an index of the CPU, wherever it was built.
        found.append(search(read(tmp_path / f"{name}.faiss"), queries, 20, nothing_seen())[0])
    assert all(report.recall >= config.target_recall for report in reports)
    common = float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(*found, strict=True)]))
    assert common >= 2 * config.target_recall - 1
    recalls = {name: report.recall for name, report in zip(("gpu", "cpu"), reports, strict=True)}
    figures[f"index of 150,000 vectors, shards of {shard_items:,}"] = {"recall": recalls, "common": common}


def test_exact_limits_are_those_of_the_cpu():
    vectors, queries = clustered(120_000), clustered(100, seed=4)
    limits = [index_build._exact_limits(vectors, queries, 20, index_build._Device(rows)) for rows in (120_000, 1)]
    np.testing.assert_allclose(*limits, rtol=1e-3)
