"""The Prefect API that a command uses: the configured one, or a temporary one.

Prefect starts a temporary API only after it is imported. Starting the same server first and importing Prefect in the
meantime halves the wait. The history of runs is in Prefect's database in both cases.
"""

import gc
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darec.common.errors import DarecError
from darec.common.processes import die_with_parent

_SERVE = "import gc; gc.disable(); from uvicorn.main import main; main()"  # imports are 20% faster without gc
APPLICATION = ("--factory", "prefect.server.api.server:create_app")  # arguments of uvicorn
_START_SECONDS = 120

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


def configured_url() -> str | None:
    """The API address in the environment or in Prefect's active profile."""
    return prefect_setting("PREFECT_API_URL")


def prefect_setting(name: str) -> str | None:
    """A setting of Prefect's, from the environment or its active profile, without importing Prefect."""
    if value := os.environ.get(name):
        return value
    try:
        values = tomllib.loads((prefect_home() / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE", values.get("active", ""))
    return values.get("profiles", {}).get(active, {}).get(name)


def prefect_home() -> Path:
    """The folder of Prefect's own files."""
    return Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()


@contextmanager
def quick_imports() -> Iterator[None]:
    """Makes importing Prefect a third faster: without garbage collection and without pandas.

    Prefect loads pandas, where it is installed, only to hash data frames for its result cache, which is off here.
    """
    hide = "pandas" not in sys.modules
    if hide:
        sys.modules["pandas"] = None  # pyright: ignore[reportArgumentType] - an import of it fails
    gc.disable()

    try:
        yield
    finally:
        gc.enable()
        if hide:
            del sys.modules["pandas"]


class TemporaryServer:
    """A Prefect API on a free port of the loopback, which ends with the block or with this process."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"

        port = self.url.rsplit(":", 1)[1].removesuffix("/api")

        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _SERVE,
                *APPLICATION,
                "--host",
                "127.0.0.1",
                "--port",
                port,
                "--log-level",
                "error",
            ],
            env={
                **os.environ,
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads yet
        )

    def wait(self) -> None:
        """Waits until the API answers. Raises DarecError if it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise DarecError("Prefect's temporary API did not start", hint="run `prefect server start` to see why")

    def stop(self) -> None:
        """Ends the server."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def prefect_api() -> Iterator[TemporaryServer | None]:
    """Configures Prefect to use an API. Yields the server if one was started."""
    if configured_url() is not None:
        yield None
        return

    server = TemporaryServer()
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server
    finally:
        _send_queued()
        del os.environ["PREFECT_API_URL"]
        server.stop()


def _send_queued() -> None:
    """Waits until queued logs and events have been sent."""
    if "prefect.flows" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)
