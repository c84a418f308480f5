"""The web server of a store's HTML reports, with `/metrics` for Prometheus and `/health`.

python -m pipelines.monitor STORE PORT [ADDRESS]
"""

import json
import os
import sys
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from darec.artifacts.store import Store
from darec.common.errors import DarecError
from darec.report.nights import exposition, last_night
from pipelines.reports import folder

NIGHT_HOURS = "DAREC_NIGHT_HOURS"
"""Environment variable: hours without a run after which `/health` answers 503; default 26."""

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type and body."""


class Handler(SimpleHTTPRequestHandler):
    """Serves the metrics, health and report files of one store, which is opened for every request."""

    def __init__(self, *arguments: Any, store: Path) -> None:
        self._store = store
        super().__init__(*arguments)  # answers the request

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Sends the head of the metrics, the health of the last run, or a report, and returns the body.

        If the store cannot be read, every answer is 503 with the reason.
        """
        try:
            computed = self._computed()
        except (DarecError, OSError) as error:
            computed = _json(HTTPStatus.SERVICE_UNAVAILABLE, {"healthy": False, "why": str(error)})
        if computed is None:
            return super().send_head()

        status, kind, body = computed
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return BytesIO(body)

    def _computed(self) -> Answer | None:
        """The answer to a request that is not for a report."""
        self.directory = str(folder(Store(self._store)))
        path = self.path.partition("?")[0]
        if path == "/metrics":
            return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", exposition(self._store)
        return _json(*health(self._store)) if path == "/health" else None

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing, because monitors send a request every few seconds."""


def _json(status: HTTPStatus, facts: dict[str, Any]) -> Answer:
    return status, "application/json", json.dumps(facts).encode()


def health(store: Path) -> tuple[HTTPStatus, dict[str, Any]]:
    """200 if the last run ended recently without an error, else 503, with details."""
    night = last_night(store)
    if night is None:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"healthy": False, "why": "no run has ended yet"}

    hours = (datetime.now(UTC) - night.ended).total_seconds() / 3600
    limit = float(os.environ.get(NIGHT_HOURS) or 26)
    late = f"no run has ended for {hours:.1f} hours" if hours > limit else None
    if hours < -1:  # the clock was ahead, and this run would count as recent until that time
        late = f"the last run ended {-hours:.1f} hours from now, by a clock that was ahead"
    healthy = late is None and not night.failed
    facts = {"healthy": healthy, "why": late or night.why, "outcome": night.outcome, "release": night.release}
    facts |= {"ended": night.ended.isoformat(timespec="seconds"), "hours_ago": round(hours, 2)}

    return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, facts


def main(store: str, port: str, address: str = "127.0.0.1") -> None:
    """Serves until the process ends."""
    ThreadingHTTPServer((address, int(port)), partial(Handler, store=Path(store))).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
