"""The Prefect API that a command uses: the configured one, or a temporary one.

Prefect starts a temporary API only after it is imported. Starting the same server first and importing Prefect in the
meantime halves the wait. The history of runs is in Prefect's database in both cases.
"""

import gc
import os
import socket
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from darec.common.errors import DarecError, UserError
from pipelines.supervise import Part

_SERVE = "import gc; gc.disable(); import prefect.server.api.server; from uvicorn.main import main; gc.enable(); main()"
"""Imports are 20% faster without garbage collection."""
_APPLICATION = ("--factory", "prefect.server.api.server:create_app")  # arguments of uvicorn
_TEMPORARY = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
_START_SECONDS = 180

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
def answering() -> Iterator[None]:
    """Explains errors of a Prefect server that does not answer. Raises UserError."""
    import httpx

    try:
        yield
    except (RuntimeError, httpx.ConnectError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        hint = "start it (`darec ui`), correct the address, or unset it to run without a server"
        where = f"PREFECT_API_URL={configured_url()}"
        raise UserError("the Prefect server does not answer", where=where, hint=hint) from error


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


class PrefectServer(Part):
    """A process with Prefect's API, and with its UI unless `environment` disables it. It ends with this process.

    Args:
        host: address on which it listens.
        port: likewise.
        environment: variables on top of those of this process.
        log: file to which the output is appended; by default the output of this process.
    """

    def __init__(self, host: str, port: int, environment: Mapping[str, str], log: Path | None = None) -> None:
        options = ("--host", host, "--port", str(port), "--log-level", "warning", "--timeout-graceful-shutdown", "5")
        super().__init__("server", [sys.executable, "-c", _SERVE, *_APPLICATION, *options], environment, log)
        self.url = f"http://{host}:{port}/api"

    def wait(self) -> None:
        """Waits until the API answers. Raises DarecError if it does not."""
        if not self.wait_until(self._is_healthy, _START_SECONDS):
            hint = "see its messages above, or run `prefect server start` to see them"
            raise DarecError("Prefect's server did not start", where=self.url, hint=hint)

    def _is_healthy(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@contextmanager
def prefect_api() -> Iterator[PrefectServer | None]:
    """Configures Prefect to use an API. Yields the server if one was started."""
    if configured_url() is not None:
        yield None
        return

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PrefectServer("127.0.0.1", port, _TEMPORARY, log=Path(os.devnull))
    os.environ["PREFECT_API_URL"] = server.url
    try:
        yield server
    finally:
        _send_queued()
        del os.environ["PREFECT_API_URL"]
        server.end()


def _send_queued() -> None:
    """Waits until queued logs and events have been sent."""
    if "prefect.flows" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)
