"""A real server on loopback that speaks the OpenAI protocol as badly as a test wants it to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.processes import listening

Handler = BaseHTTPRequestHandler
Behaviour = Callable[[dict[str, Any], Handler], None]


class Stub:
    """`behave` answers each request; it may be changed while the server runs."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""

    def prompts(self) -> list[str]:
        """The last turn of each request, in the order in which they came."""
        return [request["messages"][-1]["content"] for request in self.asked]


@contextmanager
def stub(behave: Behaviour) -> Iterator[Stub]:
    state = Stub(behave)

    class Serving(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            state.asked.append(json.loads(content))
            state.headers.append(dict(self.headers))
            state.paths.append(self.path)
            try:
                state.behave(state.asked[-1], self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with listening(Serving) as address:
        state.url = f"{address}/v1"
        yield state


def send(handler: Handler, body: bytes | str | Any, status: int = 200, **headers: str) -> None:
    """A whole response; anything but bytes and text is sent as JSON."""
    text = body if isinstance(body, bytes | str) else json.dumps(body)
    content = text.encode() if isinstance(text, str) else text
    handler.send_response_only(status)
    for name, value in ({"Content-Type": "application/json"} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def completion(content: Any, reason: str | None = "stop", **other: Any) -> dict[str, Any]:
    """A chat completion; `other` takes the place of its fields."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "1", "object": "chat.completion", "model": "stub", "choices": [choice], "usage": usage} | other


def profile(request: dict[str, Any]) -> str:
    """The good answer to a request: a profile of the first fifteen characters of its prompt."""
    return json.dumps({"profile": f"a profile of {request['messages'][-1]['content'][:15]}"})


def well(request: dict[str, Any], handler: Handler) -> None:
    """Answers as it should."""
    send(handler, completion(profile(request)))
