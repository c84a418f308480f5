"""What runs leave behind for operators: history, metrics and JSON logs, of runs that a separate process makes."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nursery import Commands
from tests.processes import unconfigured
from tests.stores import recipe_for

Darec = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    return recipe_for(folder, folder / "store")


@pytest.fixture(scope="module")
def darec(recipe) -> Iterator[Darec]:
    with Commands(recipe.parent, unconfigured(), recipe.parent) as commands:
        yield commands.call


@pytest.fixture(scope="module")
def lines(recipe, darec) -> list[dict]:
    """The log of a run, then of one that fails in `train`, of one that stops early, and of one with nothing to do."""
    done = [darec("--log-format", "json", "run", "-r", str(recipe), "--set", "train.epochs=5")]
    done.append(darec("run", "-r", str(recipe), "--set", "train.learning_rate=1e30", DAREC_LOG="json"))
    done.append(darec("run", "-r", str(recipe), "--set", "train.epochs=5", "--until", "graph"))
    done.append(darec("run", "-r", str(recipe), "--set", "train.epochs=5"))
    assert [run.returncode for run in done] == [0, done[1].returncode, 0, 0] and done[1].returncode != 0
    return [json.loads(line) for run in done[:2] for line in run.stderr.splitlines()]


def test_every_run_is_in_the_history_with_what_became_of_it(recipe, darec, lines):
    nights = json.loads(darec("history", "-r", str(recipe), "--json").stdout)
    assert [night["outcome"] for night in nights] == ["published", "failed", "partial", "unchanged"]
    published, failed, partial, unchanged = nights
    assert published["release"] == unchanged["release"] and published["metrics"] == unchanged["metrics"]
    assert published["seconds"]["train"] > 0 and published["minutes"] > 0 and unchanged["seconds"] == {}
    assert failed["why"] and failed["release"] is None and "graph" in partial["why"]
    table = darec("history", "-r", str(recipe), "-n", "2").stdout
    assert "unchanged" in table and "partial" in table and "failed" not in table


def test_the_metrics_are_those_of_the_last_run(recipe, lines):
    text = (recipe.parent / "store" / "metrics" / "darec.prom").read_text()
    assert 'darec_last_run_outcome{outcome="unchanged"} 1.0' in text and "darec_last_run_success 1.0" in text


def test_json_logs_tell_run_stage_rows_and_seconds(lines):
    first = [line for line in lines if line.get("run") == lines[0]["run"]]
    stages = {line["stage"]: line for line in first if "stage" in line}
    assert set(stages) == {"ingest", "split", "graph", "train", "evaluate", "export", "publish"}
    assert (
        stages["ingest"]["rows"] == 480 and stages["train"]["seconds"] > 0 and stages["publish"]["state"] == "published"
    )
    assert (first[0]["message"], first[-1]["outcome"]) == ("run started", "published")


def test_a_failed_run_says_why_in_its_log(lines):
    end, error = lines[-2:]
    assert end["outcome"] == "failed" and error["level"] == "error" and error["message"] == end["why"]


def test_a_history_that_cannot_be_written_stops_no_run(recipe, darec, lines):
    history = recipe.parent / "store" / "nights.jsonl"
    kept = history.read_bytes()
    history.unlink()
    history.mkdir()
    try:
        run = darec("run", "-r", str(recipe), "--set", "train.epochs=5")
        assert run.returncode == 0 and "warning: the history of runs could not be shown" in run.stderr
    finally:
        history.rmdir()
        history.write_bytes(kept)


def test_a_wrong_log_format_is_one_clear_line(recipe, darec):
    run = darec("status", "-r", str(recipe), DAREC_LOG="xml")
    assert run.returncode == 2 and run.stderr == "error: no such log format: 'xml' [DAREC_LOG] -> text or json\n"
