"""Prefect's PostgreSQL is stopped in the middle of a run and started again: the run ends as if nothing had been."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.data import write_checkerboard
from tests.processes import free_port, healthy, wait_for
from tests.stores import RECIPE

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
pytestmark = [
    pytest.mark.skipif(
        PROGRAMS is None, reason="NO POSTGRESQL: the database was not stopped; apt-get install postgresql"
    ),
    pytest.mark.slow,
]
TRAIN = "epochs: 1500, patience: 1500, eval_every: 10"


class Database:
    """A PostgreSQL of its own; as root it runs as the user that its package brings."""

    def __init__(self, folder: Path) -> None:
        self._data, self._port = folder / "data", free_port()
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres", "postgres")
        self._call("initdb", "--username=prefect", "--auth=trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._call("pg_ctl", "start", "--wait", "--log", str(self._data / "log"), "--options", options)

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "--mode=immediate")

    def _call(self, program: str, *arguments: str) -> None:
        assert PROGRAMS is not None
        command = [*self._as, str(PROGRAMS / program), f"--pgdata={self._data}", *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120)


@pytest.fixture
def database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder))
        try:
            yield database
        finally:
            database.stop()


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[str]:
    """The address of a Prefect server on that database."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url, "PREFECT_UI_ENABLED": "0"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], env=environment(tmp_path) | settings, stdout=log, stderr=log
        )
    try:
        assert wait_for(lambda: healthy(f"http://127.0.0.1:{port}/api"))
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(60)


def environment(folder: Path) -> dict[str, str]:
    """What `darec ui` and prefect.yaml give to workers and their runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DAREC_"))}
    patience = {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500", "PREFECT_CLIENT_MAX_RETRIES": "7"}
    return clean | patience | {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}


def test_a_run_rides_out_a_database_that_is_stopped_and_started(api: str, database: Database, tmp_path: Path) -> None:
    write_checkerboard(tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=tmp_path / "data", store=tmp_path / "store", train=TRAIN))
    command = [str(Path(sys.executable).with_name("darec")), "run", "--recipe", str(tmp_path / "recipe.yaml")]
    with (tmp_path / "run.log").open("wb") as log:
        run = subprocess.Popen(command, env=environment(tmp_path) | {"PREFECT_API_URL": api}, stdout=log, stderr=log)
    assert wait_for(lambda: any((tmp_path / "store" / "work" / "train").glob("*")) or run.poll() is not None)
    database.stop()
    time.sleep(5)
    assert run.poll() is None, (tmp_path / "run.log").read_text()
    database.start()
    assert run.wait(240) == 0, (tmp_path / "run.log").read_text()
    assert (tmp_path / "store" / "current" / "items.faiss").is_file()
    flows = httpx.post(f"{api}/flow_runs/filter", json={}, timeout=60).raise_for_status().json()
    assert len(flows) == 3 and {flow["state"]["type"] for flow in flows} == {"COMPLETED"}
