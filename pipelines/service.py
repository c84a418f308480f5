"""`darec ui`: database, Prefect server with UI, worker, deployments and HTML reports on one machine.

The database is PostgreSQL under PREFECT_HOME, unless PREFECT_SERVER_DATABASE_CONNECTION_URL is set.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from darec.common import logs
from darec.common.errors import UserError
from pipelines.api import PrefectServer, prefect_home, prefect_setting
from pipelines.database import Database
from pipelines.ports import require_free
from pipelines.reports import REPORTS_URL
from pipelines.supervise import Part, Parts

_LOOPBACK = ("127.0.0.1", "localhost")
_START_SECONDS = 180  # of the database
_ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # the server's answer while its database is not available
    "PREFECT_CLIENT_MAX_RETRIES": "7",  # with exponential backoff: about four minutes
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(
        logs.PACKAGES
    ),  # logs of the library and the stages are also shown in the UI
}
_DATABASE_URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


def serve(host: str, port: int, recipe: Path | None, store: Path, announce: Callable[[str, list[str]], None]) -> None:
    """Starts all processes, passes the URL and the deployments to `announce`, and runs until Ctrl-C or SIGTERM.

    The HTML reports of `store`, `/metrics` and `/health` are served on the next port of the loopback. A process that
    ends is restarted. At the end the worker is stopped first, so that it ends its runs while the server is available,
    and the database last.

    Raises:
        UserError: the server would be reachable from other machines without a login, a port is in use, or the database
            is in use or of another version.
        DarecError: the database or the server does not start, or a process ends repeatedly.
    """
    if host not in _LOOPBACK and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        hint = "set PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING to user:password, or stay on 127.0.0.1"
        raise UserError("without a login, anyone who can reach this address can start runs", where=host, hint=hint)

    require_free(host, port, "stop the process that listens there (another `darec ui`?), or choose another --port")
    if not os.environ.get(REPORTS_URL):
        hint = f"choose another --port (reports use the next one), or set {REPORTS_URL} to the URL where you serve them"
        require_free("127.0.0.1", port + 1, hint)

    signal.signal(signal.SIGTERM, _interrupt)
    url = f"http://{host}:{port}/api"
    _configure_prefect(url)

    with Parts() as parts:
        database = {} if prefect_setting(_DATABASE_URL) else {_DATABASE_URL: _start_database(parts)}
        if not os.environ.get(REPORTS_URL):
            _start_reports(parts, store, port + 1)
        server = PrefectServer(host, port, database)
        parts.add(server)
        server.wait()

        from pipelines.deployments import WORK_POOL, deploy

        deployed = deploy(recipe)
        parts.add(Part("worker", _python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process")))
        announce(url.removesuffix("/api"), deployed)
        try:
            parts.keep_alive()
        except KeyboardInterrupt:
            return


def _configure_prefect(url: str) -> None:
    """Sets Prefect's settings for all processes of the service, which the environment may replace in part."""
    os.environ |= _ENVIRONMENT
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_UI_API_URL", url)
    os.environ.setdefault("PREFECT_SERVER_DATABASE_TIMEOUT", "60")  # seconds; long enough for a busy machine
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # interval between two checks for new runs, in seconds
    if logs.chosen_format() == "json":
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER"] = "json"


def _start_database(parts: Parts) -> str:
    """Starts PostgreSQL in PREFECT_HOME, waits until it is ready, and returns its URL."""
    database = Database(prefect_home() / "postgresql")
    database.prepare()
    part = parts.add(Part("database", database.command, log=database.log, stop=signal.SIGINT))
    if not part.wait_until(database.ready, _START_SECONDS):
        raise database.failure()
    return database.url


def _start_reports(parts: Parts, store: Path, port: int) -> None:
    os.environ[REPORTS_URL] = f"http://127.0.0.1:{port}"
    parts.add(Part("web server of the reports", _python("pipelines.monitor", str(store), str(port))))


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
