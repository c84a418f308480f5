"""A real S3 server on loopback: moto's, in which one request at a time changes objects, as S3 promises for one key."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]


class _Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@dataclass
class S3:
    """The server, what it was asked, and what it does wrong on demand."""

    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    """Of each method."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes of each object that was read, by its path."""
    unconditional: bool = False
    """Whether it takes no notice of conditions, as some servers do."""
    refuses: bool = False
    """Whether it refuses every user."""
    on_put: Callable[[str], None] = lambda path: None
    """Called with the path of an object before it is written."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests[method] += 1
        if self.refuses:
            start_response("403 Forbidden", [])
            return [b"<Error><Code>AccessDenied</Code></Error>"]
        if self.unconditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        if method == "PUT":
            self.on_put(path)
        with self._lock:
            answer = list(self._app(environ, start_response))
        if method == "GET" and "list-type" not in environ["QUERY_STRING"]:
            self.sent[path] = self.sent.get(path, 0) + sum(map(len, answer))
        return answer

    def forget(self) -> None:
        """Counts from zero again."""
        self.requests.clear()
        self.sent.clear()

    @contextmanager
    def served(self) -> Iterator["S3"]:
        server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_Silent)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def new_bucket(self) -> str:
        """The URL of a folder in a bucket of its own."""
        name = f"b{uuid4().hex[:12]}"
        httpx.put(f"{self.url}/{name}", headers={"Authorization": "AWS4 test/1/us-east-1/s3"}).raise_for_status()
        return f"s3://{name}/nights"

    def put(self, url: str, name: str, content: bytes) -> str:
        """Writes an object in a folder. Returns its URL."""
        address = f"{url}/{name}"
        headers = {"Authorization": "AWS4 test/1/us-east-1/s3"}
        httpx.put(address.replace("s3:/", self.url), content=content, headers=headers).raise_for_status()
        return address


@contextmanager
def configured(server: S3) -> Iterator[None]:
    """This process uses the server."""
    before = {name: os.environ.get(name) for name in server.environment()}
    os.environ.update(server.environment())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
