"""The whole of docker-compose.yml in real containers: `make compose-check`.

Builds the images, starts database, server, worker, reports and an LLM server on the CPU, lets a night run to its
release, kills the process of every container, takes a backup, loses the volumes, restores them, and replaces an image.
It needs a Docker engine and about 12 GB. What it makes is called darec-check and is removed at the end, except images.
"""

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port, wait_for

PROJECT = Path(__file__).parents[2]
NAME = "darec-check"
SERVICES = ("database", "server", "worker", "reports", "serving", "llm-cpu")
PROFILES = ("--profile", "cpu", "--profile", "serving")
PATIENCE = 900  # seconds; an LLM server starts within one minute, or within several on a busy machine
RECIPE = """
data: {source: csv, interactions: data/check/interactions.csv, items: data/check/items.csv, users: data/check/users.csv,
       min_rating: null, interaction_columns: {timestamp: timestamp}}
split: {k_core: 1}
llm: {engine: server, server_url: "http://llm:8000/v1"}
train: {epochs: 4, eval_every: 2, dim: 8}
gate: {minimums: {}, tolerances: {}}
runtime: {store: data/store, min_free_gb: 0.1}
"""

pytestmark = [
    pytest.mark.skipif(not os.environ.get("DAREC_COMPOSE"), reason="containers are checked by `make compose-check`"),
    pytest.mark.timeout(3600),
]


def call(*command: str, **options: Any) -> str:
    """The output of a command that has to succeed."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600, **options)
    assert answer.returncode == 0, f"{command}\n{answer.stdout[-3000:]}\n{answer.stderr[-3000:]}"
    return answer.stdout


class Stack:
    """The services of docker-compose.yml under a name, ports and secrets of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url, self.reports, self.serving = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        self.login = f"check:{secrets.token_hex(8)}"
        settings = {"POSTGRES_PASSWORD": secrets.token_hex(8), "DAREC_LLM_API_KEY": secrets.token_hex(8)}
        settings |= {"DAREC_LOGIN": self.login, "DAREC_RECIPE": "data/check/recipe.yaml", "DAREC_LOG": "json"}
        settings |= {"DAREC_PUBLIC_URL": self.url, "DAREC_REPORTS_URL": self.reports, "DEVICE": "cpu"}
        settings |= {"DAREC_PORT": self.url.rpartition(":")[2], "DAREC_REPORTS_PORT": self.reports.rpartition(":")[2]}
        settings |= {"DAREC_SERVING_PORT": self.serving.rpartition(":")[2]}
        passed_on = ("PYTHON_IMAGE", "DATABASE_IMAGE", "EXTRA_INDEX")
        settings |= {name: os.environ[name] for name in passed_on if name in os.environ}
        self._environment = folder / "env"
        self._environment.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

        self._compose = ["docker", "compose"]
        text = (PROJECT / "docker-compose.yml").read_text()
        if subprocess.run([*self._compose, "version"], capture_output=True, check=False).returncode:
            self._compose = ["docker-compose"]  # version 1 knows no top-level name
            text = re.sub(r"^name:.*\n", "", text, flags=re.MULTILINE)
        self._file = folder / "docker-compose.yml"
        self._file.write_text(text)

    def compose(self, *arguments: str) -> str:
        options = ["--project-directory", str(PROJECT), "--env-file", str(self._environment), "--project-name", NAME]
        return call(*self._compose, "--file", str(self._file), *options, *PROFILES, *arguments)

    def container(self, service: str) -> str:
        [found] = self.compose("ps", "-q", service).split()
        return found

    def inspect(self, service: str) -> dict[str, Any]:
        return json.loads(call("docker", "inspect", self.container(service)))[0]

    def healthy(self, service: str) -> bool:
        return self.inspect(service)["State"].get("Health", {}).get("Status") == "healthy"

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build")
        for service in SERVICES:
            assert wait_for(lambda service=service: self.healthy(service), PATIENCE), self.compose("logs", service)

    def volume(self, name: str, *command: str, **options: Any) -> None:
        """Runs a command as root in a container that has the volume at /volume and the test's folder at /host."""
        mounts = ["-v", f"{NAME}_{name}:/volume", "-v", f"{self.folder}:/host"]
        call("docker", "run", "--rm", "--user", "0", *mounts, image(self, "worker"), *command, **options)

    def ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        """Prefect's answer, asked for again while it is not there."""
        login = base64.b64encode(self.login.encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data=data, headers=headers, method=method)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except (OSError, urllib.error.HTTPError) as error:
                if time.monotonic() > deadline or getattr(error, "code", 500) < 500:
                    raise
                time.sleep(1)

    def night(self, **parameters: Any) -> dict[str, Any]:
        """A run of the nightly deployment, ended."""
        deployment = self.ask("GET", "deployments/name/darec/nightly")["id"]
        run = self.ask("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert wait_for(lambda: self.ask("GET", f"flow_runs/{run}")["state"]["type"] in ends, PATIENCE)
        return self.ask("GET", f"flow_runs/{run}")

    def history(self) -> list[dict[str, Any]]:
        darec = ("exec", "-T", "worker", "darec", "history", "--json")
        return json.loads(self.compose(*darec))

    def runs(self) -> int:
        return self.ask("POST", "flow_runs/count", {})


def image(stack: Stack, service: str) -> str:
    """The image that a service is made of."""
    names = re.findall(r"^ *image: (\S+)", (PROJECT / "docker-compose.yml").read_text(), re.MULTILINE)
    [name] = {
        name.replace("${DEVICE:-cpu}", "cpu") for name in names if f"darec-{service}" in name and "gpu" not in name
    }
    return name


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    """Everything up, with a small data set and the models in its volumes."""
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(folder)
    stack.compose("down", "--volumes", "--remove-orphans")
    stack.compose("build", "server", "worker")
    with tarfile.open(PROJECT / "tests" / "legacy" / "store-0.1.tar.gz") as archive:
        data = [each for each in archive if each.name.startswith("data/")]
        archive.extractall(folder / "check", data, filter="data")
    (folder / "check" / "data" / "recipe.yaml").write_text(RECIPE)
    own = "chown -R 10001:10001 /volume"
    copy = f"mkdir -p /volume/check /volume/models && cp /host/check/data/* /volume/check && {own}"
    stack.volume("data", "sh", "-c", copy)
    models = Path(os.environ.get("DAREC_MODELS", PROJECT / "data" / "models"))
    if models.is_dir():  # elsewhere the containers fetch them
        shutil.copytree(models, folder / "models")
        stack.volume("models", "sh", "-c", f"cp -r /host/models/. /volume && {own}")
    try:
        stack.up()
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


def fetched(url: str) -> str:
    """The answer, also if it is an error, or nothing if nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def eventually(condition: Callable[[], bool]) -> None:
    assert wait_for(condition, PATIENCE)


def test_nobody_gets_in_without_the_login(stack):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{stack.url}/api/admin/version", timeout=60)


def test_before_the_first_release_the_recommendations_are_healthy_and_answer_503(stack):
    for path in ("health", "recommend?user=u000"):
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{stack.serving}/{path}", timeout=60)
        assert "nothing has been published yet" in fetched(f"{stack.serving}/{path}")
    assert stack.healthy("serving")


def test_a_night_runs_to_its_release_with_profiles_of_the_llm_server(stack):
    assert stack.night()["state"]["type"] == "COMPLETED"
    [night] = stack.history()
    assert night["outcome"] == "published" and night["tokens"] > 0 and night["generated"] > 0


def test_reports_metrics_and_health_are_served(stack):
    [night] = stack.history()
    for path, words in (
        (f"{night['release']}.html", b"<html"),
        ("metrics", b"darec_last_run_success 1.0"),
        ("health", b'"healthy": true'),
    ):
        with urllib.request.urlopen(f"{stack.reports}/{path}", timeout=60) as answer:
            assert words in answer.read()


def test_recommendations_are_served_from_a_volume_that_is_not_writable_and_without_secrets(stack):
    [release] = [night["release"] for night in stack.history()]
    eventually(lambda: release in fetched(f"{stack.serving}/health"))
    assert release in fetched(f"{stack.serving}/recommend?user=u000&k=3")
    container = stack.inspect("serving")
    assert container["Config"]["User"] == "10001"
    assert not [mount["Destination"] for mount in container["Mounts"] if mount["RW"]]
    assert not re.search("LOGIN|PASSWORD|KEY=", "".join(container["Config"]["Env"]))


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_whose_process_is_killed_comes_back_and_the_next_night_is_normal(stack, service):
    before = stack.inspect(service)["State"]["StartedAt"]
    kill = "kill -9 $(cat /proc/1/task/1/children)"
    subprocess.run(["docker", "exec", stack.container(service), "sh", "-c", kill], check=False, timeout=60)
    eventually(lambda: stack.inspect(service)["State"]["StartedAt"] != before and stack.healthy(service))
    assert stack.night()["state"]["type"] == "COMPLETED"
    assert stack.history()[-1]["outcome"] == "unchanged"
    assert stack.history()[0]["release"] in fetched(f"{stack.serving}/recommend?user=u000&k=3")


def test_a_backup_brings_everything_back_after_the_volumes_are_lost(stack):
    history, runs = stack.history(), stack.runs()
    dump = stack.compose("exec", "-T", "database", "pg_dump", "--username", "prefect", "prefect")
    for volume in ("data", "models"):
        stack.volume(volume, "tar", "-C", "/volume", "-cf", f"/host/{volume}.tar", ".")

    stack.compose("down", "--volumes")
    for volume in ("data", "models"):
        stack.volume(volume, "tar", "-C", "/volume", "-xf", f"/host/{volume}.tar")
    stack.compose("up", "--detach", "--no-build", "database")
    eventually(lambda: stack.healthy("database"))
    load = ("psql", "--username", "prefect", "--quiet", "--set", "ON_ERROR_STOP=1", "prefect")
    call("docker", "exec", "-i", stack.container("database"), *load, input=dump)
    stack.up()

    assert stack.history() == history and stack.runs() >= runs
    assert stack.night()["state"]["type"] == "COMPLETED"
    assert stack.history()[-1]["outcome"] == "unchanged"


@pytest.mark.parametrize("service", ["server", "worker"])
def test_an_exchanged_image_keeps_history_and_hits(stack, service):
    name, runs = image(stack, service), stack.runs()
    old = call("docker", "image", "inspect", "--format", "{{.Id}}", name).strip()
    try:
        call("docker", "build", "--tag", name, "-", input=f"FROM {name}\nLABEL exchanged=yes\n")
        stack.up()
        assert stack.inspect(service)["Config"]["Labels"].get("exchanged") == "yes"
        assert stack.runs() >= runs
        assert stack.night()["state"]["type"] == "COMPLETED"
        assert stack.history()[-1]["outcome"] == "unchanged"
    finally:
        call("docker", "tag", old, name)
