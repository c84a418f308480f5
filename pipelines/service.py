"""`darec ui`: server with UI, worker, deployments and HTML reports on one machine, until Ctrl-C.

The database is SQLite under PREFECT_HOME; PREFECT_SERVER_DATABASE_CONNECTION_URL names a PostgreSQL instead.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from darec.common.errors import DarecError, UserError
from darec.common.processes import die_with_parent
from pipelines.report_command import REPORTS_URL

_LOOPBACK = ("127.0.0.1", "localhost")
_START_SECONDS = 180
_WORKER_PAUSE = 3  # before a worker that died is started again
_STOP_SECONDS = 60  # a worker asked to stop ends its runs first
_ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # the server's answer while its database is away
    "PREFECT_CLIENT_MAX_RETRIES": "7",  # with growing pauses: about four minutes
}
_SERVER = ("uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning")


def serve(host: str, port: int, recipe: Path | None, reports: Path, announce: Callable[[str, list[str]], None]) -> None:
    """Starts everything, tells `announce` the address and what was deployed, and stays until Ctrl-C or SIGTERM.

    The files in `reports` are served on the loopback, one port further, so that links to them open in a browser. At the
    end the worker is stopped first, so that it ends its runs while the server still listens.

    Raises:
        UserError: others than this machine could reach a server without a login, or a port is taken.
        DarecError: the server does not come up (a database away), or ends by itself.
    """
    if host not in _LOOPBACK and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        hint = "set PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING to user:password, or stay on 127.0.0.1"
        raise UserError("whoever reaches this address could start runs: there is no login", where=host, hint=hint)
    _require_free(host, port, "stop what listens there (another `darec ui`?), or choose another --port")
    signal.signal(signal.SIGTERM, _interrupt)
    url = f"http://{host}:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_UI_API_URL", url)
    os.environ.setdefault("PREFECT_SERVER_DATABASE_TIMEOUT", "60")  # how long SQLite waits for another writer
    with _reports(reports, port + 1), _child([*_SERVER, "--host", host, "--port", str(port)]) as server:
        _await_health(url, server)
        from pipelines.deployments import WORK_POOL, deploy

        deployed = deploy(recipe)
        announce(url.removesuffix("/api"), deployed)
        try:
            _keep_working(server, ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"])
        except KeyboardInterrupt:
            return
    raise DarecError(f"the server ended with {server.returncode}", hint="see its messages above")


def _reports(folder: Path, port: int) -> AbstractContextManager[Any]:
    """A web server of HTML reports, unless REPORTS_URL says that there is one already."""
    if os.environ.get(REPORTS_URL):
        return nullcontext()
    hint = f"choose another --port (reports take the next one), or set {REPORTS_URL} to where you serve {folder}"
    _require_free("127.0.0.1", port, hint)
    os.environ[REPORTS_URL] = f"http://127.0.0.1:{port}"
    folder.mkdir(parents=True, exist_ok=True)
    return _child(["http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)])


def _require_free(host: str, port: int, hint: str) -> None:
    """Asked before anything starts: a server that finds its port taken ends beside one that answers in its place."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which follows
        raise UserError(f"cannot listen: {reason}", where=f"{host}:{port}", hint=hint) from error


def _keep_working(server: subprocess.Popen[bytes], worker_command: list[str]) -> None:
    """A worker at all times, as long as the server lives."""
    while server.poll() is None:
        with _child(worker_command) as worker:
            while server.poll() is None and worker.poll() is None:
                time.sleep(0.5)
        time.sleep(_WORKER_PAUSE)


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process of its own; Ctrl-C in the terminal reaches only us, who then end it in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **_ENVIRONMENT},
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
    raise DarecError("Prefect's server did not start", where=url, hint="see its messages above")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
