"""Runs in a real MLflow database: settings, metrics, curves and the report; failures that fail no run."""

import threading

import pytest

from darec.common.errors import DarecError
from pipelines import tracking
from pipelines.direct import run_directly
from stages.registry import TASKS
from tests.report_samples import FAKES, recipe


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    for name, fake in FAKES.items():
        monkeypatch.setitem(TASKS, name, fake)


def opened(address: str):
    from mlflow import MlflowClient  # reads the environment

    return MlflowClient(address)


def test_a_run_is_in_mlflow_with_its_report_and_no_secret(tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path}/tracker/mlflow.db"
    (tmp_path / "tracker").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden-word")
    llm = {"server_url": "http://me:hidden-word@127.0.0.1:1/v1"}
    gate = {"minimums": {"recall@20": 0.0}, "tolerances": {"ndcg@20": 0.5}}
    chosen = recipe(tmp_path, tracking={"address": address, "experiment": "nights"}, llm=llm, gate=gate)
    results = {result.stage: result for result in run_directly(chosen, "publish", ())}

    client = opened(address)
    (run,) = client.search_runs([client.get_experiment_by_name("nights").experiment_id])
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "published")
    assert run.data.tags["release"] == results["publish"].report.release
    assert run.data.params["train.epochs"] == "4" and run.data.params["gate.tolerances.ndcg_at_20"] == "0.5"
    assert run.data.metrics["test/recall_at_20"] == pytest.approx(results["evaluate"].report.test["recall@20"])
    curve = client.get_metric_history(run.info.run_id, "train/loss/ranking")
    assert len(curve) > 1 and len({point.step for point in curve}) == len(curve)
    pages = [each.path for each in client.list_artifacts(run.info.run_id) if each.path.endswith(".html")]
    assert pages == [f"{results['publish'].report.release}.html"]
    assert not [
        path for path in (tmp_path / "tracker").rglob("*") if path.is_file() and b"hidden-word" in path.read_bytes()
    ]


def test_a_run_that_fails_is_there_too(tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path}/mlflow.db"
    chosen = recipe(tmp_path, tracking={"address": address})
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n")
    with pytest.raises(DarecError):
        run_directly(chosen, "publish", ())
    client = opened(address)
    (run,) = client.search_runs([client.get_experiment_by_name("darec").experiment_id])
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "failed")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", None, "nonsense://x", "sqlite:////proc/mlflow.db"])
def test_a_tracker_that_fails_fails_no_run(tmp_path, monkeypatch, caplog, address):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    chosen = recipe(tmp_path, tracking={"address": address})
    assert run_directly(chosen, "split", ())[-1].stage == "split"
    assert "the run was not sent to the tracker" in caplog.text
    assert "no answer in" not in caplog.text, "it is found out at once"
    assert not [thread for thread in threading.enumerate() if thread.name == tracking.THREAD]
