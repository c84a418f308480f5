"""`darec bench scale`: synthetic logs with structure, stages in processes of their own, costs that are kept."""

import json
import os
import signal
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import polars as pl
import pytest

from benchmarks import scale
from benchmarks.scale import Cost
from darec.artifacts.store import Store
from darec.common.errors import DarecError
from darec.serving.releases import Releases

PRELOADED = ["darec.evaluation.report", "darec.serving.bundle", "darec.training", "faiss", "stages.registry"]


@pytest.fixture(scope="module")
def ready() -> ForkServerContext:
    """Processes that have imported everything: a stage does not wait for imports."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def test_log_is_skewed_and_users_prefer_their_group(tmp_path):
    scale.write_log(tmp_path / "log.parquet", 20_000)
    log = pl.read_parquet(tmp_path / "log.parquet")
    assert log.height == 20_000
    assert log["timestamp"].is_sorted()
    counts = log["item_id"].value_counts(sort=True)["count"]
    assert counts.head(len(counts) // 10).sum() > 0.3 * log.height
    scale.write_log(tmp_path / "again.parquet", 20_000)
    assert pl.read_parquet(tmp_path / "again.parquet").equals(log)


def test_stages_run_once_and_their_costs_are_kept(tmp_path, monkeypatch, ready, caplog):
    monkeypatch.setattr(scale, "get_context", lambda _: ready)
    recipe = scale.recipe_for(tmp_path, 10_000, text_width=8, settings=["train.dim=8", "split.k_core=2"])
    first = list(scale.measure(recipe, 10_000, "publish", 8))
    names = ["ingest", "split", "graph", "train_reference", "train", "evaluate", "export", "publish"]
    assert [cost.stage for cost in first] == names
    assert all(cost.cpu_seconds > 0 and cost.peak_mb > 50 for cost in first)
    assert Releases(Path(recipe.runtime.store)).current() is not None
    monkeypatch.setattr(scale, "ProcessPoolExecutor", lambda *_, **__: pytest.fail("a stage was run again"))
    assert list(scale.measure(recipe, 10_000, "export", 8)) == first[:-1]

    # A call was killed after the stage and before its cost was written.
    kept = Path(recipe.runtime.store) / "costs.json"
    kept.write_text(
        json.dumps({name: cost for name, cost in json.loads(kept.read_text()).items() if "graph" not in name})
    )
    assert [cost.stage for cost in scale.measure(recipe, 10_000, "export", 8)] == [
        n for n in names[:-1] if n != "graph"
    ]
    assert "the cost of graph-" in caplog.text


def test_profiles_of_all_rows_come_from_an_engine_that_answers_at_once(tmp_path, monkeypatch, ready):
    monkeypatch.setattr(scale, "get_context", lambda _: ready)
    recipe = scale.recipe_for(tmp_path, 5_000, settings=["split.k_core=0"], profiles=True)
    stages = [cost.stage for cost in scale.measure(recipe, 5_000, "profile_users", 0)]
    assert stages == [
        "ingest",
        "split",
        "status, profile_items",
        "profile_items",
        "status, profile_users",
        "profile_users",
    ]
    report = Store(recipe.runtime.store).latest("profile_users").manifest.report
    assert report["rows"] == 100 and report["from_metadata"] == 0
    assert report["generated"] > 90, "a few users have the same prompt"


def test_exponent_of_hand_made_costs():
    small, large = Cost(1_000_000, "train", 1, 2.0, 100), Cost(4_000_000, "train", 9, 32.0, 300)
    assert scale.exponent(small, large) == pytest.approx(2)
    lines = scale.table([small, large]).splitlines()
    assert lines[0] == "| stage | 1M: CPU s, MB | 4M: CPU s, MB | exponent, 1M to 4M |"
    assert lines[2] == "| train | 2.0, 100 | 32.0, 300 | 2.00 |"


@pytest.mark.parametrize(("text", "size"), [("5M", 5_000_000), ("200k", 200_000), ("1.5M", 1_500_000), ("700", 700)])
def test_sizes_are_read_and_shown(text, size):
    assert scale.parsed(text) == size
    assert scale.shown(size) == text


@pytest.mark.parametrize("text", ["many", "0", "-5k", "5x", "M", "", "nan", "inf"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=f"{text!r} is not a number of interactions"):
        scale.parsed(text)


def test_a_stage_too_short_to_measure_has_no_exponent():
    assert "nan" in scale.table([Cost(1_000, "graph", 0, 0.0, 100), Cost(2_000, "graph", 0, 0.1, 100)])


def test_a_process_that_is_killed_is_told(monkeypatch, ready):
    monkeypatch.setattr(scale, "get_context", lambda _: ready)
    with pytest.raises(DarecError, match="the process was killed.*run out of memory"):
        scale._alone(_killed, "train")


def _killed(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
