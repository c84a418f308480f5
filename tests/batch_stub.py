"""A real server on loopback with OpenAI's batches: files, batches that end when the test says, and live answers."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.llm_stub import completion, profile, send
from tests.processes import listening

Line = Callable[[dict[str, Any]], dict[str, Any] | None]


def answered(request: dict[str, Any]) -> dict[str, Any] | None:
    """The good answer to one line of a batch."""
    return {"response": {"status_code": 200, "body": completion(profile(request["body"]))}, "error": None}


class BatchServer:
    """`answer` makes the answer to a line; a batch ends after `polls` looks at it, with `status`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.live: list[dict[str, Any]] = []
        self.answer: Line = answered
        self.status, self.polls, self.url = "completed", 1, ""
        self.missing: set[str] = set()
        """Names of files that are deleted."""
        self.fail_calls: list[int] = []
        """Statuses of the next responses."""
        self.fail_batches: list[int] = []
        """Statuses of the next responses to POST /batches."""
        self.lose_next_answer = False
        """Whether the server does the next POST /batches and then closes the connection without an answer."""

    def sent(self) -> list[str]:
        """The last turns of all rows that were ever sent in batches."""
        lines = [line for batch in self.batches.values() for line in self._lines(batch)]
        return [line["body"]["messages"][-1]["content"] for line in lines]

    def _lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def create(self, content: dict[str, Any]) -> dict[str, Any]:
        assert content["endpoint"] == "/v1/chat/completions" and content["completion_window"] == "24h"
        batch = {"id": f"batch_{len(self.batches)}", "status": "validating", "looks": 0, **content}
        self.batches[batch["id"]] = batch
        return batch

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["looks"] += 1
        if batch["looks"] <= self.polls or batch["status"] not in ("validating", "in_progress"):
            batch["status"] = "in_progress" if batch["status"] == "validating" else batch["status"]
            return batch
        batch["status"] = self.status
        if self.status == "failed":
            batch["errors"] = {"data": [{"code": "invalid", "message": "line 1 is not valid"}]}
            return batch
        good, bad = [], []
        for line in self._lines(batch):
            answer = self.answer(line)
            other = {"response": None, "error": {"code": "batch_expired", "message": "too late"}}
            (bad if answer is None else good).append(json.dumps({"custom_id": line["custom_id"], **(answer or other)}))
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            batch[name] = f"file-{batch['id']}-{name}" if lines else None
            self.files[f"file-{batch['id']}-{name}"] = "\n".join(lines).encode()
        return batch


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    state = BatchServer()

    class Serving(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if state.fail_calls:
                send(self, {"error": {"message": "busy"}}, state.fail_calls.pop(0))
            elif self.path == "/v1/files":
                boundary = re.search("boundary=(.+)", self.headers["content-type"])
                assert boundary
                parts = content.split(b"--" + boundary[1].encode())
                [file] = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts if b"filename=" in part]
                assert any(b'name="purpose"' in part and b"batch" in part for part in parts)
                name = f"file-{len(state.files)}"
                state.files[name] = file
                send(self, {"id": name, "object": "file", "purpose": "batch"})
            elif self.path == "/v1/batches" and state.fail_batches:
                send(self, {"error": {"message": "busy"}}, state.fail_batches.pop(0))
            elif self.path == "/v1/batches":
                made = state.create(json.loads(content))
                if state.lose_next_answer:
                    state.lose_next_answer = False
                    self.close_connection = True
                    self.connection.close()
                    return
                send(self, made)
            else:
                state.live.append(json.loads(content))
                send(self, completion(profile(state.live[-1])))

        def do_GET(self) -> None:
            path = urlsplit(self.path)
            if state.fail_calls:
                send(self, {"error": {"message": "busy"}}, state.fail_calls.pop(0))
            elif path.path == "/v1/batches":
                ids = list(state.batches)
                after = parse_qs(path.query).get("after", [""])[0]
                rest = ids[ids.index(after) + 1 :] if after else ids
                data = [state.batches[name] for name in rest[:1]]  # one to a page
                send(self, {"object": "list", "data": data, "has_more": len(rest) > 1})
            elif path.path.startswith("/v1/batches/"):
                batch = state.batches.get(path.path.rpartition("/")[2])
                send(
                    self, state.look(batch) if batch else {"error": {"message": "no such batch"}}, 200 if batch else 404
                )
            else:
                name = path.path.split("/")[3]
                gone = name in state.missing
                send(self, {"error": {"message": "no such file"}} if gone else state.files[name], 404 if gone else 200)

        def log_message(self, *_: Any) -> None:
            pass

    with listening(Serving) as address:
        state.url = f"{address}/v1"
        yield state
