"""`darec ui` as an operator sees it: a real server, worker, deployments and browser, on a data set of a few rows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from darec.serving.releases import Releases
from darec.text.models import models_root
from schemas.semantic import EmbedConfig
from stages.walk import run as run_directly
from tests.buckets import S3
from tests.data import CHECKERBOARD, write_checkerboard
from tests.disks import full, small_disk
from tests.llm_stub import send, stub, well
from tests.processes import free_port, healthy, short_folder, unconfigured, wait_for
from tests.stores import RECIPE

pytestmark = pytest.mark.timeout(1200)
PROJECT = Path(__file__).parents[2]
PATIENCE = 300  # seconds; a loaded machine is slow, a hung run is for ever


@dataclass
class Service:
    """A running `darec ui`."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    client: httpx.Client
    calls: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        """The answer, asked for again while server or database are started again, as Prefect's clients do."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.client.request(method, f"{self.url}/api/{path}", **content)
                if answer.status_code < 500 or time.monotonic() > deadline:
                    return answer.raise_for_status().json()
            except httpx.TransportError:
                assert time.monotonic() < deadline
            time.sleep(0.3)

    def start(self, deployment: str, **parameters: Any) -> str:
        found = self.ask("GET", f"deployments/name/{deployment}")
        run = self.ask("POST", f"deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
        return run["id"]

    def state(self, run: str) -> dict[str, Any]:
        return self.ask("GET", f"flow_runs/{run}")["state"]

    def wait(self, run: str, *types: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while (state := self.state(run))["type"] not in types:
            assert time.monotonic() < deadline, f"still {state}"
            time.sleep(0.3)
        return state

    def finish(self, deployment: str, **parameters: Any) -> str:
        run = self.start(deployment, **parameters)
        state = self.wait(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert state["type"] == "COMPLETED", state
        return run

    def tasks(self, run: str) -> dict[str, tuple[str, str]]:
        """State name and message of each stage under `run`, its subflows included."""
        found, flows = {}, [run]
        while flows:
            tasks = self.ask("POST", "task_runs/filter", json={"flow_runs": {"id": {"any_": [flows.pop()]}}})
            for task in tasks:
                found[task["name"].rsplit("-", 1)[0]] = (task["state"]["name"], task["state"]["message"])
                if child := task["state"]["state_details"].get("child_flow_run_id"):
                    flows.append(child)
        return found

    def artifact(self, key: str) -> dict[str, Any]:
        return self.ask("GET", f"artifacts/{key}/latest")

    def part(self, command: str) -> psutil.Process:
        """The process of `darec ui` whose command line has this word: postgres, uvicorn, worker or monitor."""
        [found] = [each for each in psutil.Process(self.process.pid).children() if command in " ".join(each.cmdline())]
        return found

    def calls_of(self, run: str) -> list[dict[str, Any]]:
        """What the webhook was sent about `run`, once there is something."""
        wait_for(lambda: any(call["run_id"] == run for call in self.calls))
        return [call for call in self.calls if call["run_id"] == run]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def process_of(self, run: str) -> psutil.Process:
        """The process that a worker started for `run`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                try:
                    if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                        return child
                except psutil.Error:
                    continue
            time.sleep(0.2)
        raise AssertionError(f"no process for run {run}")


def start_ui(folder: Path, port: int, **settings: str) -> subprocess.Popen[bytes]:
    """`darec ui` on the data in `folder`, once it says that it is there."""
    (folder / "recipe.yaml").write_text(RECIPE.format(data=folder / "data", store=folder / "store", train="epochs: 5"))
    environment = unconfigured()
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1", **settings}
    environment["PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS"] = "1"
    command = [str(Path(sys.executable).parent / "darec"), "ui", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--recipe", str(folder / "recipe.yaml")], cwd=PROJECT, env=environment, stdout=log, stderr=log
        )
    up = b"Ctrl-C stops everything"
    wait_for(lambda: process.poll() is not None or up in (folder / "log").read_bytes(), PATIENCE)
    assert process.poll() is None, (folder / "log").read_text()
    return process


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder of the service."""
    with short_folder() as made:
        yield made


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    write_checkerboard(folder / "data")
    port = free_port(pair=True)
    calls: list[dict[str, Any]] = []
    hook = _webhook(calls)
    process = start_ui(folder, port, DAREC_WEBHOOK_URL=f"http://127.0.0.1:{hook.server_port}/")
    try:
        with httpx.Client(timeout=PATIENCE) as client:
            yield Service(process, f"http://127.0.0.1:{port}", folder, client, calls)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        hook.shutdown()
        hook.server_close()
        assert not psutil.wait_procs(children, timeout=60)[1], "Ctrl-C left processes behind"


def _webhook(calls: list[dict[str, Any]]) -> HTTPServer:
    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def orphan(service: Service) -> str:
    """A run whose process and worker were killed in one blow, as when a machine loses power; made first of all.

    A worker in a container registers everything again when it is started again.
    """
    run = service.start("rerun-stage/rerun-stage", stage="train", extent="only", overrides=["train.epochs=1000000"])
    service.wait(run, "RUNNING")
    process = service.process_of(run)
    doomed = [process.parent(), process, *process.children(recursive=True)]
    for victim in doomed:
        if victim is not None:
            victim.kill()
    assert service.state(run)["type"] == "RUNNING"
    deploy = [str(Path(sys.executable).parent / "darec"), "deploy", "--recipe", str(service.folder / "recipe.yaml")]
    environment = unconfigured() | {"PREFECT_API_URL": f"{service.url}/api"}
    subprocess.run(deploy, cwd=PROJECT, env=environment, check=True, timeout=PATIENCE)
    return run


@pytest.fixture(scope="module")
def nightly(service: Service, orphan: str) -> str:
    return service.finish("darec/nightly")


def test_the_nightly_deployment_is_scheduled_one_at_a_time(service: Service):
    deployment = service.ask("GET", "deployments/name/darec/nightly")
    [schedule] = deployment["schedules"]
    assert schedule["active"] and schedule["schedule"]["timezone"] != "UTC"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_a_nightly_run_publishes_and_shows_what_it_did(service: Service, nightly: str):
    assert service.tasks(nightly)["publish"][0] == "Completed"
    assert (service.folder / "store" / "current").is_dir()
    plan = {row["stage"]: row for row in json.loads(service.artifact("plan")["data"])}
    assert plan["ingest"]["state"] in ("stale", "hit") and plan["publish"]["why"]
    assert service.artifact("train-loss")["data"].startswith("data:image/svg+xml;base64,")
    metrics = {row["metric"]: row for row in json.loads(service.artifact("evaluate-metrics")["data"])}
    assert metrics["recall@20"]["this run"] is not None and metrics["recall@20"]["popularity"] is not None
    assert "published" in service.artifact("publish-gate")["data"]


@pytest.fixture(scope="module")
def next_night(service: Service, nightly: str) -> str:
    return service.finish("darec/nightly")


def test_the_next_night_takes_every_hit_and_says_why(service: Service, next_night: str):
    tasks = service.tasks(next_night)
    stages = {name: state for name, state in tasks.items() if name in ("ingest", "split", "graph", "train", "export")}
    assert {state for state, _ in stages.values()} == {"Cached"}
    assert all("same inputs" in message for _, message in stages.values())


def test_metrics_health_and_logs_tell_of_the_last_run(service: Service, next_night: str):
    port = int(service.url.rpartition(":")[2]) + 1
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    assert 'darec_last_run_outcome{outcome="unchanged"} 1.0' in metrics
    health = httpx.get(f"http://127.0.0.1:{port}/health")
    assert health.status_code == 200 and health.json()["outcome"] == "unchanged"
    logs = service.ask("POST", "logs/filter", json={"limit": 200, "sort": "TIMESTAMP_DESC"})
    assert {"stages.walk", "pipelines.nights"} <= {log["name"] for log in logs}


def test_one_stage_is_run_again_by_force_and_no_other(service: Service, nightly: str):
    tasks = service.tasks(service.finish("rerun-stage/rerun-stage", stage="graph", extent="only", force=True))
    assert tasks["graph"][0] == "Completed" and tasks["split"][0] == "Cached"
    assert "train" not in tasks


def test_a_prompt_is_tried_from_its_form(service: Service, nightly: str):
    prompt = "{% block system %}Say it.{% endblock %}{% block user %}Who enjoys {{ title }}?{% endblock %}"
    with stub(well) as llm:
        overrides = ["llm.engine=server", f"llm.server_url={llm.url}", "llm.model=stub"]
        values = {"stage": "profile_items", "prompt": prompt, "rows": "3", "overrides": overrides}
        before = set((service.folder / "store" / "artifacts").glob("*/*"))
        service.finish("try-prompt/try-prompt", **values)
    shown = service.artifact("prompt-profile-items")
    assert "3 rows under the old and the new prompt" in shown["description"]
    assert shown["data"].count("a profile of Who enjoys") == 3
    assert len(llm.prompts()) == 3 and all("Who enjoys" in asked for asked in llm.prompts())
    assert set((service.folder / "store" / "artifacts").glob("*/*")) == before


def test_another_release_is_made_rolled_back_and_promoted_again(service: Service, nightly: str):
    """A release of other vectors, by hand as an operator might; going back and forth is what the API is asked for."""
    releases = Releases(service.folder / "store")
    first = releases.current()
    run_directly(load_recipe(service.folder / "recipe.yaml", ["train.seed=1", "gate.tolerances={}"]))
    second = releases.current()
    assert first is not None and second is not None and first.id != second.id
    service.finish("rollback/rollback", why="it looked odd")
    assert releases.current() == releases.get(first.id)
    service.finish("promote/promote", release=second.id, why="it was not")
    current = releases.current()
    assert current is not None and (current.id, current.events[-1].why) == (second.id, "it was not")
    assert second.id in service.artifact("release")["data"]


def test_a_failed_run_calls_the_webhook_once_and_says_how_to_mend_it(service: Service, nightly: str):
    run = service.start("promote/promote", release="no-such-release")
    assert "no-such-release" in service.wait(run, "FAILED", "COMPLETED", "CRASHED")["message"]
    mine = service.calls_of(run)
    assert len(mine) == 1 and "names no release" in mine[0]["text"]


def test_the_plan_is_made_again_once_the_split_is_known(service: Service, nightly: str):
    service.finish("darec/nightly", overrides=["split.k_core=1"])
    plans = service.ask("POST", "artifacts/filter", json={"artifacts": {"key": {"any_": ["plan"]}}})
    newest = sorted(plans, key=lambda artifact: artifact["created"])[-2:]
    before, after = ({row["stage"]: row["state"] for row in json.loads(plan["data"])} for plan in newest)
    assert (before["split"], before["graph"]) == ("stale", "follows")
    assert after["split"] == "hit" and after["graph"] in ("hit", "stale")


def test_a_refused_release_calls_the_webhook_and_leaves_production_as_it_is(service: Service, nightly: str):
    before = Releases(service.folder / "store").current()
    run = service.finish("darec/nightly", overrides=["train.seed=2", 'gate.minimums={"recall@20": 2}'])
    assert Releases(service.folder / "store").current() == before
    assert "refused" in service.artifact("publish-gate")["data"]
    mine = service.calls_of(run)
    assert len(mine) == 1 and mine[0]["event"] == "darec.release.refused" and "recall@20" in mine[0]["text"]


def test_a_night_that_finds_the_last_one_at_work_is_cancelled(service: Service, nightly: str):
    endless = ["train.seed=3", "train.epochs=1000000", "train.patience=1000000"]
    first = service.start("darec/nightly", overrides=endless)
    service.wait(first, "RUNNING")
    second = service.start("darec/nightly")
    assert service.wait(second, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")["type"] == "CANCELLED"
    assert service.state(first)["type"] == "RUNNING"
    service.process_of(first).kill()
    assert service.wait(first, "CRASHED", "COMPLETED", "FAILED")["type"] == "CRASHED"


def test_a_night_that_a_worker_finds_hours_later_is_not_caught_up(service: Service, nightly: str):
    deployment = service.ask("GET", "deployments/name/darec/nightly")["id"]
    late = {"type": "SCHEDULED", "state_details": {"scheduled_time": f"{datetime.now(UTC) - timedelta(hours=5)}"}}
    content = {"state": late, "tags": ["auto-scheduled"]}
    run = service.ask("POST", f"deployments/{deployment}/create_flow_run", json=content)["id"]
    state = service.wait(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert state["type"] == "CANCELLED" and "5 hours late" in state["message"]


def test_the_report_of_a_run_is_one_click_away(service: Service, nightly: str):
    link = re.search(r"\[open the report\]\((http[^)]+)\)", service.artifact("report")["data"])
    assert link is not None and "<html" in httpx.get(link[1]).raise_for_status().text


def test_a_killed_run_is_crashed_within_seconds_while_its_worker_lives(service: Service, nightly: str):
    run = service.start("gc/gc", dry_run=True)
    service.process_of(run).kill()
    assert service.wait(run, "CRASHED", "COMPLETED", "FAILED")["type"] == "CRASHED"


def test_the_browser_shows_the_run_and_the_form(service: Service, nightly: str, tmp_path: Path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("NO CHROMIUM: the UI was not looked at; apt-get install chromium")
    deployment = service.ask("GET", "deployments/name/rerun-stage/rerun-stage")["id"]
    form = _page(browser, f"{service.url}/deployments/deployment/{deployment}/run", tmp_path / "form.png")
    assert all(word in form for word in ("profile_users", "from here on", "keep_prompt", "overrides"))
    page = _page(browser, f"{service.url}/runs/flow-run/{nightly}?tab=Artifacts", tmp_path / "run.png")
    assert "Completed" in page and "nightly" in page
    for picture in ("form.png", "run.png"):
        assert (tmp_path / picture).stat().st_size > 20_000
        if os.environ.get("DAREC_KEEP_PICTURES"):
            shutil.copy(tmp_path / picture, PROJECT / "docs" / "img" / f"ui-{picture}")


def _page(browser: str, address: str, picture: Path) -> str:
    """The text of a page once its scripts have run, and a picture of it."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--force-prefers-reduced-motion", "--window-size=1280,1400", "--virtual-time-budget=30000"]
    profile = f"--user-data-dir={picture.with_suffix('.profile')}"
    command = [browser, *options, profile, f"--screenshot={picture}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_database_is_a_postgresql_under_prefects_home(service: Service, nightly: str):
    assert (service.folder / "prefect" / "postgresql" / "PG_VERSION").is_file()
    assert not (service.folder / "prefect" / "prefect.db").exists()
    assert str(service.folder / "prefect" / "postgresql") in service.part("postgres").cmdline()


def test_nothing_was_logged_that_an_operator_would_have_to_look_into(service: Service, nightly: str):
    """SQLite with a worker logged `database is locked` once a second, with a traceback of the server each time."""
    assert not re.findall(r"ERROR *\| *(?:prefect\.server|uvicorn|prefect\._internal).*|.*is locked.*", service.log)


def test_a_run_that_died_with_its_worker_is_crashed_and_not_running_for_ever(service: Service, orphan: str):
    assert service.wait(orphan, "CRASHED", "COMPLETED", "FAILED")["type"] == "CRASHED"
    assert "heartbeat" in service.state(orphan)["message"].lower()


@pytest.mark.parametrize("victim", ["uvicorn", "postgres"])
def test_a_run_survives_server_and_database_which_are_started_again(service: Service, nightly: str, victim: str):
    seed = 5 + len(victim)
    long = [f"train.seed={seed}", "train.epochs=600", "train.patience=600", "train.eval_every=10"]
    run = service.start("darec/nightly", overrides=[*long, "gate.tolerances={}"])
    service.wait(run, "RUNNING")
    before = len(list((service.folder / "store" / "work" / "train").glob("*")))
    assert wait_for(lambda: len(list((service.folder / "store" / "work" / "train").glob("*"))) > before)
    service.part(victim).kill()
    assert wait_for(lambda: "ended with exit code -9 and is restarted" in service.log)
    assert wait_for(lambda: healthy(f"{service.url}/api"))
    assert service.wait(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")["type"] == "COMPLETED"


def test_the_night_after_one_on_a_full_disk_is_normal(service: Service, nightly: str, tmp_path: Path):
    with small_disk(tmp_path / "disk", 8) as disk:
        store = [f"runtime.store={disk}/store", "runtime.min_free_gb=0", "gate.tolerances={}"]
        run_directly(load_recipe(service.folder / "recipe.yaml", store))
        with full(disk):
            run = service.start("darec/nightly", overrides=[*store, "train.seed=21"])
            failed = service.wait(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            assert failed["type"] == "FAILED" and "full" in failed["message"], failed
        tasks = service.tasks(service.finish("darec/nightly", overrides=[*store, "train.seed=21"]))
        assert (tasks["graph"][0], tasks["train"][0], tasks["publish"][0]) == ("Cached", "Completed", "Completed")


def test_the_night_after_one_of_a_failing_llm_server_is_normal(service: Service, nightly: str):
    if not (models_root() / EmbedConfig().model).is_dir():
        pytest.skip("the text encoder is not fetched: darec models fetch")
    items, users = 24, 40

    def answer(request: dict[str, Any], handler: BaseHTTPRequestHandler) -> None:
        if len(llm.asked) <= 2 * items:  # each row of the first attempt is tried twice
            send(handler, {"error": {"message": "internal error"}}, 500)
        else:
            well(request, handler)

    with stub(answer) as llm:
        server = ["llm.engine=server", f"llm.server_url={llm.url}", "llm.model=stub", "llm.retries=1"]
        overrides = [*server, "train.alignment=[{name: darec}]", "gate.tolerances={}"]
        run = service.start("darec/nightly", overrides=overrides)
        state = service.wait(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert state["type"] == "COMPLETED" or "LLM server" in state["message"], state
        after = service.tasks(service.finish("darec/nightly", overrides=overrides))
        assert after["publish"][0] in ("Completed", "Cached")
        assert len(llm.asked) <= 3 * items + users, "an answered row was asked for again"
        profiles = Store(service.folder / "store").latest("profile_users")
        assert profiles is not None and profiles.manifest.report["from_metadata"] == 0


def test_stages_run_in_the_work_pools_of_the_recipe_on_machines_without_a_common_disk(service: Service, tmp_path: Path):
    """One machine runs the pipeline, one asks the LLM, one trains by two processes; only the bucket is common."""
    if not (models_root() / EmbedConfig().model).is_dir():
        pytest.skip("the text encoder is not fetched: darec models fetch")
    with S3().served() as server, stub(well) as here, stub(well) as at_gpu:
        settings = {"main": (here.url, 1), "gpu": (at_gpu.url, 1), "big": ("http://127.0.0.1:9/v1", 2)}
        environments, bucket = dict[str, dict[str, str]](), server.new_bucket()
        for machine, (llm, processes) in settings.items():
            folder = tmp_path / machine
            shutil.copytree(PROJECT / "prompts", folder / "prompts")
            recipe = {
                "data": CHECKERBOARD,
                "split": {"k_core": 1},
                "llm": {"engine": "server", "server_url": llm, "model": "stub"},
                "train": {"epochs": 4, "eval_every": 2, "dim": 8, "processes": processes},
                "gate": {"minimums": {}, "tolerances": {}},
                "runtime": {
                    "store": bucket,
                    "min_free_gb": 0.001,
                    "pools": {"profile_items": "gpu", "train": "big"},
                },
            }
            (folder / "recipe.yaml").write_text(json.dumps(recipe))
            environments[machine] = (
                unconfigured()
                | server.environment()
                | {
                    "PREFECT_API_URL": f"{service.url}/api",
                    "PREFECT_HOME": str(folder / "prefect"),
                    "PREFECT_WORKER_QUERY_SECONDS": "1",
                    "PYTHONPATH": str(PROJECT),
                    "DAREC_MODELS": str(models_root().resolve()),
                    "DAREC_PROJECT": str(folder),
                }
            )
        write_checkerboard(tmp_path / "main", users=24, items=16)

        def darec(*arguments: str, folder: Path) -> None:
            command = [str(Path(sys.executable).parent / "darec"), *arguments]
            subprocess.run(command, cwd=folder, env=environments["main"], check=True, timeout=PATIENCE)

        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool"]
        workers = [
            subprocess.Popen([*command, machine], cwd=tmp_path / machine, env=environments[machine])
            for machine in ("gpu", "big")
        ]
        try:
            darec("deploy", "--recipe", str(tmp_path / "main" / "recipe.yaml"), folder=PROJECT)
            darec("run", "--recipe", "recipe.yaml", "--until", "train", folder=tmp_path / "main")
        finally:
            for worker in workers:
                worker.terminate()
            assert all(worker.wait(60) is not None for worker in workers)

    runs = service.ask("POST", "flow_runs/filter", json={"flows": {"name": {"any_": ["stage"]}}})
    assert {each["name"]: each["work_pool_name"] for each in runs} == {"profile_items": "gpu", "train": "big"}
    assert all(each["state"]["type"] == "COMPLETED" and each["parent_task_run_id"] for each in runs)
    assert (len(at_gpu.asked), len(here.asked)) == (16, 24), "items are profiled there, users here"


def test_everything_ends_when_darec_ui_is_killed():
    with short_folder() as folder:
        write_checkerboard(folder / "data")
        process = start_ui(folder, free_port(pair=True))
        parts = psutil.Process(process.pid).children(recursive=True)
        assert len(parts) > 4
        process.kill()
        process.wait()
        assert not psutil.wait_procs(parts, timeout=PATIENCE)[1], "they outlived it"
        assert "database system is shut down" in (folder / "prefect" / "postgresql.log").read_text()
