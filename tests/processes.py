"""Waiting for processes and servers that tests start."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

_FIRST_PORT, _LAST_PORT = 20_000, 32_000
_RESERVED: list[socket.socket] = []


def unconfigured() -> dict[str, str]:
    """This process's environment without what configures darec and Prefect."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DAREC_"))}


def free_port(*, pair: bool = False) -> int:
    """A port of the loopback that nobody listens on, and that no other test is given; with `pair`, so is the next one.

    The system gives the ports above these to sockets that ask for any port, and to connections, at any moment.
    """
    for port in range(_FIRST_PORT + os.getpid() % 1_000 * 10, _LAST_PORT, 2):
        if all(_reserved(each) for each in range(port, port + 1 + pair)):
            return port
    raise AssertionError("no port is free")


def _reserved(port: int) -> bool:
    """Whether this process has the port from now on until it ends, as far as tests of this machine are concerned."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0darec-tests-{port}")  # an abstract name, which one process at a time can have
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        name.close()
        return False
    _RESERVED.append(name)
    return True


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for the socket of a PostgreSQL in it, wherever temporary files go."""
    with TemporaryDirectory(prefix="darec-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> bool:
    """Whether the condition came to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def healthy(url: str) -> bool:
    """Whether a server answers at `url`/health."""
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback, which says nothing of clients that go away."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
