"""The history of runs, and what monitors and reports make of it."""

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from darec.artifacts.store import Store
from darec.report.nights import TEXTFILE, exposition, history, last_night, record
from darec.report.source import Source
from darec.report.trend import trend
from darec.serving.releases import Releases
from pipelines.cli import guarded
from pipelines.monitor import Handler
from pipelines.nights import recorded
from schemas.night import Night
from schemas.recipe import Recipe
from tests.processes import listening

NOW = datetime.now(UTC)


def night(hours_ago: float = 1, **changes) -> Night:
    facts = {"minutes": 1.5, "outcome": "published", "why": "all 9 checks passed", "release": "r1", "tokens": 4837}
    facts |= {"metrics": {"recall@20": 0.19, "ndcg@20": None}, "seconds": {"train": 56.5}, "generated": 14}
    return Night(started=NOW - timedelta(hours=hours_ago), **(facts | changes))


def samples(text: bytes) -> dict[str, float]:
    """Name with labels to value, as Prometheus itself reads them."""
    return {
        sample.name + "".join(f"|{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_runs_come_back_oldest_first_and_a_torn_line_blocks_no_other(tmp_path):
    record(tmp_path, night(30, release="r1"))
    with (tmp_path / "nights.jsonl").open("ab") as file:
        file.write(b'{"started": "2026-11-2\n\xff\xfe\n')
    record(tmp_path, night(6, release="r2", outcome="refused"))
    assert [found.release for found in history(tmp_path)] == ["r1", "r2"]
    assert last_night(tmp_path) == night(6, release="r2", outcome="refused")


def test_many_at_once_leave_whole_lines(tmp_path):
    each = [threading.Thread(target=record, args=(tmp_path, night(why="x" * 3000))) for _ in range(20)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    assert len(history(tmp_path)) == 20


def test_what_prometheus_reads_is_what_was_recorded(tmp_path):
    record(tmp_path, night(2))
    found = samples(exposition(tmp_path))
    assert found["darec_last_run_success"] == 1 and found["darec_last_run_outcome|published"] == 1
    assert found["darec_last_run_quality|recall@20"] == 0.19 and "darec_last_run_quality|ndcg@20" not in found
    assert found["darec_last_run_stage_seconds|train"] == 56.5 and found["darec_last_run_tokens"] == 4837
    assert found["darec_last_run_end_timestamp_seconds"] == pytest.approx(NOW.timestamp() - 7200 + 90)
    assert samples((tmp_path / TEXTFILE).read_bytes()) == found


def test_a_run_that_failed_is_no_success_and_a_refused_one_is(tmp_path):
    record(tmp_path, night(outcome="refused"))
    assert samples(exposition(tmp_path))["darec_last_run_success"] == 1
    record(tmp_path, night(outcome="failed", why="the disk is full", metrics={}, release=None))
    assert samples(exposition(tmp_path))["darec_last_run_success"] == 0


def test_a_store_without_runs_has_metrics_too(tmp_path):
    assert samples(exposition(tmp_path)) == {"darec_releases": 0} and last_night(tmp_path) is None


@pytest.fixture
def monitor(tmp_path):
    """The address of a monitor of an empty store."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "r1.html").write_text("<html>r1")
    (tmp_path / "secret").write_text("not served")
    with listening(partial(Handler, store=tmp_path)) as url:
        yield url


def ask(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("last", "status", "why"),
    [
        (None, 503, "no run has ended yet"),
        (night(1), 200, "all 9 checks passed"),
        (night(1, outcome="refused", why="recall fell"), 200, "recall fell"),
        (night(1, outcome="failed", why="the disk is full"), 503, "the disk is full"),
        (night(30), 503, r"no run has ended for 30\.\d hours"),
        (night(-30), 503, r"the last run ended \d+\.\d hours from now, by a clock that was ahead"),
        (night(-0.1), 200, "all 9 checks passed"),
    ],
)
def test_health_follows_the_last_run(monitor, tmp_path, last, status, why):
    if last is not None:
        record(tmp_path, last)
    code, body = ask(f"{monitor}/health")
    health = json.loads(body)
    assert code == status and re.fullmatch(why, health["why"]) and health["healthy"] == (status == 200)


def test_the_monitor_serves_reports_and_metrics_and_nothing_else_of_the_store(monitor, tmp_path):
    record(tmp_path, night())
    assert ask(f"{monitor}/r1.html") == (200, "<html>r1")
    code, text = ask(f"{monitor}/metrics?x=1")
    assert code == 200 and samples(text.encode())["darec_last_run_success"] == 1
    for path in ("/../secret", "/..%2fsecret", "/%2e%2e/secret", "/nights.jsonl"):
        assert ask(monitor + path)[0] == 404


@pytest.mark.parametrize("path", ["/health", "/metrics", "/r1.html", "/"])
def test_a_store_that_cannot_be_read_is_answered_with_the_reason(tmp_path, path):
    (tmp_path / "store").write_text("a file")
    with listening(partial(Handler, store=tmp_path / "store")) as url:
        code, body = ask(url + path)
        assert code == 503 and json.loads(body)["healthy"] is False
        assert "the store is not a folder" in json.loads(body)["why"]


def test_a_history_that_cannot_be_read_is_answered_with_the_reason(monitor, tmp_path):
    (tmp_path / "nights.jsonl").mkdir()
    for path in ("/health", "/metrics"):
        code, body = ask(monitor + path)
        assert code == 503 and "nights.jsonl" in json.loads(body)["why"]


def test_a_head_without_a_body_is_answered_as_the_whole(monitor):
    for path, status in (("/metrics", 200), ("/health", 503), ("/r1.html", 200), ("/secret", 404)):
        assert httpx.head(monitor + path).status_code == status


def test_the_container_of_the_reports_is_healthy_if_its_store_can_be_read(tmp_path):
    [*_, script] = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]["reports"]["healthcheck"]["test"]
    with listening(partial(Handler, store=tmp_path / "store")) as url:
        command = [sys.executable, "-c", script.replace("http://127.0.0.1:4201", url)]
        assert subprocess.run(command, check=False).returncode == 0, "no run has ended yet"
        (tmp_path / "store").write_text("a file")
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_releases_from_before_there_was_a_history_are_nights_and_make_a_trend(nights):
    store, _, second = nights
    found = history(store.root)
    assert [night.release for night in found] == [release.id for release in reversed(Releases(store.root).all())]
    assert found[-1].minutes is None and found[-1].metrics["recall@20"] is not None
    titles = [chart.title for chart in trend(Source.of_run(store, second))]
    assert titles == ["recall@20", "coverage@20"]  # nobody kept tokens and minutes


def test_tokens_and_minutes_join_the_trend_once_two_nights_kept_them(nights):
    store, _, second = nights
    source = Source.of_run(store, second)
    for release in Releases(store.root).all():
        began = release.created - timedelta(minutes=2)
        facts = {"release": release.id, "metrics": dict(release.report.metrics), "tokens": 10}
        record(store.root, night().model_copy(update={"started": began, **facts}))
    try:
        charts = {chart.title: chart.series[0].points for chart in trend(source)}
        assert charts["LLM tokens"] == ((1.0, 10.0), (2.0, 10.0)) and len(charts["minutes"]) == 2
    finally:
        (store.root / "nights.jsonl").unlink()


def test_ctrl_c_during_a_command_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def stopped() -> None:
        with recorded(Store(tmp_path), "run", Recipe()):
            raise KeyboardInterrupt

    assert guarded(lambda: app([])) == 130
    assert "interrupted; finished work is kept" in capsys.readouterr().err
    found = last_night(tmp_path)
    assert found is not None and (found.outcome, found.why) == ("failed", "interrupted")


def test_other_exits_of_a_command_keep_their_code() -> None:
    with pytest.raises(SystemExit) as ended:
        guarded(lambda: sys.exit(3))
    assert ended.value.code == 3
