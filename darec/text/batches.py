"""Rows sent as batches, which a server answers within hours and usually at half the price (OpenAI's protocol).

A batch is a file of requests (`/files`), which `/batches` processes; its answers are another file. It is recorded in
the store: if a run is killed or has waited for `llm.batch_hours`, the server continues with the batch, and the next run
reads its answers instead of sending these rows again. If the run is killed between the server's acceptance and the
record of the batch's id, the next run finds the batch by its name.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from darec.artifacts.ledger import row_key
from darec.artifacts.shared import Shared, shared_store
from darec.common.errors import LimitError, TransientError, UserError
from darec.common.files import replacing
from darec.text.answers import printable
from darec.text.protocol import Answer, LazyRequests, Request
from darec.text.replies import RejectedError, RetryableError, read_reply
from darec.text.server import ServerEngine, common_fields, request_body
from darec.text.servers import access, address
from schemas.semantic import LLMConfig

_MOST_ROWS, _MOST_BYTES = 50_000, 190 * 2**20  # limits of one batch in the protocol
_KEPT_DAYS = 30  # servers delete the answers of a batch after this time
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds before the first retry, doubled for each further one
_PAGES = 10  # maximum number of pages of the server's list of batches that are searched
_RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
_REFUSED = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

Result = TypeVar("Result")

_logger = logging.getLogger(__name__)


class _Record(BaseModel):
    """An open batch, as recorded in the store."""

    server: str
    name: str
    """The hash of its rows, which is also its name at the server."""
    rows: list[str]
    """Rows whose answers have not been read yet, by the hashes of their requests."""
    sent: float
    batch: str | None = None
    """Its id; None if it is not known whether the server has the batch."""


class BatchEngine:
    """Sends rows as batches, waits for them, and sends the remaining rows as single requests with `ServerEngine`.

    Args:
        config: the server.
        folder: where open batches are recorded.
    """

    def __init__(self, config: LLMConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._client = httpx.Client(**access(config, config.server_url), timeout=config.timeout, follow_redirects=True)
        self._live = ServerEngine(config)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
        self._live.close()

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Yields the answers of each batch when it ends, and then those of the rows that no batch has answered.

        Raises:
            UserError: the server does not support batches, or refuses this one.
            LimitError: a batch has not ended within `llm.batch_hours`; the next run reads its answers.
            TransientError: the server cannot be reached or is failing.
        """
        common = common_fields(self.config, schema, max_tokens)
        batches = list(self._records())
        sent = {row for _, record in batches for row in record.rows}
        left: dict[str, tuple[str, int]] = {}  # key and number of the request of each row; prompts are not kept
        single: list[int] = []

        def unsent() -> Iterator[tuple[str, bytes]]:
            for number, request in enumerate(requests):
                if request.shorter:  # only few prompts are too long, and each may take several requests
                    single.append(number)
                    continue
                body = json.dumps(request_body(request, request.messages, common), ensure_ascii=False).encode()
                row = row_key(body)
                left[row] = request.key, number
                if row not in sent:
                    yield row, body

        parts: list[dict[str, bytes]] = []
        rows = 0
        for part in _parts(unsent()):
            parts.append(part)
            rows += len(part)
            if rows >= self.config.batch_min_rows:
                batches += [self._send(part) for part in parts]
                parts = []

        wanted = set(left)
        for path, record in batches:
            if wanted.isdisjoint(record.rows):
                continue
            batch = self._wait(record)
            try:
                answers = self._answers(batch, wanted, max_tokens)
            except _AbsentError:
                _drop(path)  # it will never have answers: the next run sends its rows again
                raise
            yield [Answer(left.pop(row)[0], *rest) for row, rest in answers.items() if row in left]
            self._forget(path, record, wanted)  # the yielded answers are in the ledger now

        single += [number for _, number in left.values()]
        if single:
            yield from self._live.generate(LazyRequests(single, requests.__getitem__), schema, max_tokens)

    # Sending

    def _send(self, bodies: dict[str, bytes]) -> tuple[Path, _Record]:
        name = row_key(*(row.encode() for row in sorted(bodies)))
        path = self.folder / f"{uuid.uuid4().hex}.json"
        record = _Record(server=self._server, name=name, rows=list(bodies), sent=time.time())
        _keep(path, record)  # before it is sent to the server: see `_adopt`
        record.batch = self._create(name, bodies)
        _keep(path, record)
        _logger.info("batch %s of %d rows was sent", record.batch, len(bodies), extra={"rows": len(bodies)})
        return path, record

    def _create(self, name: str, bodies: dict[str, bytes]) -> str:
        lines = (
            b'{"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions", "body": %s}' % (row.encode(), body)
            for row, body in bodies.items()
        )
        upload = {"file": (f"{name}.jsonl", b"\n".join(lines) + b"\n", "application/jsonl")}
        file = self._call("POST", "/files", data={"purpose": "batch"}, files=upload)
        batch = {
            "input_file_id": file.get("id"),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"darec": name},
        }
        # If only the response was lost, a second batch would be processed and billed as well.
        return self._retried(
            lambda: str(self._object("POST", "/batches", json=batch)["id"]), found=lambda: self._named(name)
        )

    # Waiting

    def _wait(self, record: _Record) -> dict[str, Any]:
        """Waits for the batch to end."""
        deadline = time.monotonic() + 3600 * self.config.batch_hours
        while True:
            batch = self._call("GET", f"/batches/{record.batch}")
            if batch.get("status") not in _RUNNING:
                return batch
            if time.monotonic() > deadline:
                raise LimitError(
                    f"batch {record.batch} of {len(record.rows):,} rows has not ended within llm.batch_hours",
                    where=self._server,
                    hint="run again later: the answers of the batch are read then, and its rows are not sent again",
                )
            time.sleep(min(self.config.batch_poll_seconds, max(0.0, deadline - time.monotonic()) + 0.01))

    def _answers(self, batch: dict[str, Any], rows: Collection[str], max_tokens: int) -> dict[str, tuple]:
        """Text, finish reason and tokens of the answered rows of a batch.

        Raises:
            _AbsentError: the server refuses the batch, or has deleted its answers.
            TransientError: the server cannot be reached or is failing.
        """
        status, answers = batch.get("status"), dict[str, tuple]()
        if status == "failed":
            found = (batch.get("errors") or {}).get("data") or [{}]
            words = printable(str(found[0].get("message", "no reason is given")), 200)
            hint = "fix the cause and run again, or set llm.batch_api to false"
            raise _AbsentError(f"the LLM server refuses the batch: {words}", where=self._server, hint=hint)

        if status not in ("completed", "expired", "cancelled"):
            raise TransientError(f"the batch has the unknown status {printable(str(status), 40)!r}", where=self._server)

        for file in (batch.get("output_file_id"), batch.get("error_file_id")):
            if not file:
                continue
            content = self._retried(partial(self._body, "GET", f"/files/{file}/content"))
            for line in content.splitlines():
                row, answer = _read_line(line, max_tokens)
                if row in rows and answer is not None:
                    answers[row] = answer

        return answers

    # Records

    def _records(self) -> Iterator[tuple[Path, _Record]]:
        """The open batches of this server; the record of a batch that the server does not have is deleted."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = _Record.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            if time.time() - record.sent > 86_400 * _KEPT_DAYS:
                _drop(path)
            elif record.server == self._server and self._adopt(path, record):
                yield path, record

    def _adopt(self, path: Path, record: _Record) -> bool:
        """Whether the server has the batch. A batch without a recorded id is searched by its name."""
        try:
            if record.batch is not None:
                self._call("GET", f"/batches/{record.batch}")
                return True
            record.batch = self._named(record.name)
        except _AbsentError:
            record.batch = None

        if record.batch is None:
            _drop(path)
            return False

        _keep(path, record)
        return True

    def _named(self, name: str) -> str | None:
        """The id of the batch with this name; a batch that the server has refused is left out."""
        after: dict[str, str] = {}
        for _ in range(_PAGES):
            try:
                page = self._call("GET", "/batches", params={"limit": "100", **after})
            except _AbsentError:  # the server does not list its batches
                return None
            batches = [each for each in page.get("data") or [] if isinstance(each, dict)]
            for batch in batches:
                if (batch.get("metadata") or {}).get("darec") == name and batch.get("status") != "failed":
                    return str(batch["id"])
            if not page.get("has_more") or not batches:
                return None
            after = {"after": str(batches[-1]["id"])}

        return None

    def _forget(self, path: Path, record: _Record, rows: Collection[str]) -> None:
        """Keeps the record of an ended batch only for rows that a later call may need."""
        record.rows = [row for row in record.rows if row not in rows]
        if record.rows:
            _keep(path, record)
        else:
            _drop(path)

    # Calls

    @property
    def _server(self) -> str:
        return str(self.config.server_url)

    def _call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        return self._retried(lambda: self._object(method, path, **content))

    def _retried(self, call: Callable[[], Result], found: Callable[[], Result | None] = lambda: None) -> Result:
        """The result of `call`, after at most `llm.retries` retries. Before each of them `found` may return it."""
        for attempt in range(self.config.retries):
            try:
                return call()
            except TransientError:
                time.sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
            if (result := found()) is not None:
                return result
        return call()

    def _object(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            answer = json.loads(self._body(method, path, **content))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise TransientError(f"the LLM server's response to {path} is not a JSON object", where=self._server)
        return answer

    def _body(self, method: str, path: str, **content: Any) -> bytes:
        """The body of a successful response."""
        try:
            response = self._client.request(method, address(self.config.server_url, path), **content)
        except httpx.HTTPError as error:
            raise self._failing(f"the LLM server cannot be reached ({type(error).__name__})") from error

        if response.is_success:
            return response.content
        status, words = response.status_code, printable(response.text[:400], 200)
        if status in _REFUSED:
            raise _AbsentError(
                f"the LLM server has no {path} (status {status}): {words}",
                where=self._server,
                hint="set llm.batch_api to false, or correct llm.server_url",
            )
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in (408, 409, 429):
            raise UserError(
                f"the LLM server refuses {path} (status {status}): {words}",
                where=self._server,
                hint="check the key in the variable that llm.api_key_env names, and llm.model",
            )
        raise self._failing(f"the LLM server fails with status {status}: {words}")

    def _failing(self, fault: str) -> TransientError:
        return TransientError(fault, where=self._server, hint="open batches are kept: run again")


class _AbsentError(UserError):
    """The server does not have the requested object, or the answers of a batch."""


def _parts(bodies: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, bytes]]:
    """The rows in parts within the limits of the protocol, one of which is in memory."""
    part: dict[str, bytes] = {}
    size = 0
    for row, body in bodies:
        if part and (len(part) == _MOST_ROWS or size + len(body) > _MOST_BYTES):
            yield part
            part, size = {}, 0
        part[row] = body
        size += len(body) + 128

    if part:
        yield part


def _read_line(line: bytes, max_tokens: int) -> tuple[str, tuple | None]:
    """The row, text, finish reason and tokens of one line of a batch's answers; None if it was not answered."""
    try:
        content = json.loads(line)
        row, response = str(content["custom_id"]), content.get("response")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None

    if not isinstance(response, dict) or not isinstance(response.get("status_code"), int):
        return row, None  # it expired, or the server failed

    try:
        reply = read_reply(response["status_code"], {}, json.dumps(response.get("body")).encode(), max_tokens)
    except (RetryableError, UserError):  # UserError: the quota or the key failed while the batch was processed
        return row, None
    except RejectedError as fault:
        return row, (fault.what, "rejected", 0, 0)

    return row, (reply.text, reply.finish_reason, reply.prompt_tokens, reply.output_tokens)


def _keep(path: Path, record: _Record) -> None:
    """Writes a record durably, and in a shared store also to the object store."""
    if (shared := _shared(path)) is not None:
        shared.write(str(path.relative_to(shared.cache)), record.model_dump_json().encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=True) as draft:
        draft.write_text(record.model_dump_json())


def _drop(path: Path) -> None:
    """Deletes a record."""
    if (shared := _shared(path)) is not None:
        shared.delete(str(path.relative_to(shared.cache)))
    else:
        path.unlink(missing_ok=True)


def _shared(path: Path) -> Shared | None:
    """The shared store, if a record is in the cache of one."""
    return shared_store(path.parents[2])
