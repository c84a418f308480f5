"""Servers on loopback from which sources are read, and recipes that read from them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from darec.common.recipes import configure
from schemas.recipe import Recipe
from stages.execute import Result
from stages.prepare import read_sources
from stages.walk import run
from tests.processes import listening

COLUMNS = {"rating": "rating", "timestamp": "timestamp"}


def recipe(folder: Path, **data: Any) -> Recipe:
    """A recipe whose store is in the folder."""
    section = {"source": "csv", "interaction_columns": COLUMNS} | data
    overrides = {"data": section, "split": {"k_core": 0}, "runtime": {"store": str(folder / "store")}}
    return configure(Recipe, overrides, where="test")


def night(chosen: Recipe) -> tuple[list[str], list[Result]]:
    """What a run read, and its ingest and split."""
    return read_sources(chosen), run(chosen, "split")


@dataclass
class Files:
    """What a server has, how it answers, and what it was asked."""

    content: dict[str, bytes] = field(default_factory=dict)
    """By the path of the address."""
    answer: Callable[["Files", BaseHTTPRequestHandler], bool] = lambda files, request: False
    """Called first; True if it has answered."""
    tagged: bool = True
    """Whether answers have an ETag."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and `Range` of every request."""
    url: str = ""

    def read(self) -> list[str]:
        """The paths that were read since the last call."""
        found = [path for method, path, _ in self.asked if method == "GET" and "?" not in path]
        self.asked.clear()
        return found


def send(request: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    request.send_response_only(status)
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(content)


def _listing(files: Files, query: dict[str, list[str]], bucket: str) -> bytes:
    """The objects of a bucket, as Google or Azure lists them."""
    prefix, entries = query.get("prefix", [""])[0], ""
    for path, content in sorted(files.content.items()):
        name = path.removeprefix(f"{bucket}/")
        if name == path or not name.startswith(prefix):
            continue
        tag, size = hashlib.md5(content).hexdigest(), len(content)
        if "list-type" in query:
            entries += f"<Contents><Key>{name}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            entries += f"<ETag>{tag}</ETag><Size>{size}</Size></Contents>"
        else:
            entries += f"<Blob><Name>{name}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT"
            entries += f"</Last-Modified><Etag>{tag}</Etag><Content-Length>{size}</Content-Length>"
            entries += "<Content-Type>text/csv</Content-Type></Properties></Blob>"
    if "list-type" in query:
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
    return f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>".encode()


@contextmanager
def files_server() -> Iterator[Files]:
    """A web server that also speaks as much of Google's and Azure's storage protocols as reading takes."""
    state = Files()

    class Serving(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            path, query = unquote(address.path), parse_qs(address.query)
            state.asked.append((self.command, self.path, self.headers.get("Range", "")))
            if state.answer(state, self):
                return
            if "list-type" in query or query.get("comp") == ["list"]:
                send(self, _listing(state, query, path.rstrip("/")))
            elif path not in state.content:
                send(self, b"", 404)
            else:
                content = state.content[path]
                tag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'} if state.tagged else {}
                send(self, content, **tag, **({"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"} if tag else {}))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with listening(Serving) as address:
        state.url = address
        yield state
