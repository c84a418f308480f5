"""`darec ui`: server with UI, worker and deployments on one machine, until Ctrl-C.

The database is SQLite under PREFECT_HOME; PREFECT_SERVER_DATABASE_CONNECTION_URL names a PostgreSQL instead.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from darec.errors import DarecError
from darec.processes import die_with_parent

_START_SECONDS = 180
_STOP_SECONDS = 60  # a worker asked to stop ends its runs first
_QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT__SERVER_FINAL": "1"}
_SERVER = ("uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning")


def serve(host: str, port: int, recipe: Path | None, announce: Callable[[str, list[str]], None]) -> None:
    """Starts everything, tells `announce` the address and what was deployed, and stays until Ctrl-C or SIGTERM.

    At the end the worker is stopped first, so that it ends its runs while the server still listens.

    Raises:
        DarecError: the server does not come up (a taken port, a database away), or a process ends by itself.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    url = f"http://{host}:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_UI_API_URL", url)
    with _child([*_SERVER, "--host", host, "--port", str(port)]) as server:
        _await_health(url, server)
        from pipelines.deployments import WORK_POOL, deploy

        deployed = deploy(recipe)
        with _child(["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]) as worker:
            announce(url.removesuffix("/api"), deployed)
            _wait({"server": server, "worker": worker})


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process of its own; Ctrl-C in the terminal reaches only us, who then end it in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **_QUIET},
        preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread has been started here)
        process_group=0,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _await_health(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise DarecError("Prefect's server did not start", where=url, mend="see its messages above; is the port free?")


def _wait(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Returns on Ctrl-C. Raises DarecError when one of the processes ends by itself."""
    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise DarecError(f"the {name} ended with {process.returncode}", mend="see its messages above")
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
