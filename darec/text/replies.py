"""Parses responses of servers with the OpenAI protocol: an answer, or an error and its cause.

Servers, proxies and filters do not always follow the protocol. Parsing any bytes gives a `Reply` or one of three
errors: `RetryableError` (a retry may succeed), `RejectedError` (this request will never be accepted) or `UserError` (no
request will be accepted).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from darec.common.errors import UserError
from darec.text.answers import printable
from darec.text.protocol import FinishReason

# OpenAI's code, and the wording of vLLM 0.5 to 0.32, SGLang, llama.cpp, TGI and Anthropic's endpoint. Other limits
# ("maximum number of concurrent requests", "maximum schema depth") must not match: they are not about the prompt.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|maximum context length (?:is|of)? ?\(?\d|longer than the (?:maximum )?model(?:'s context)? length"
    r"|plus the number of requested output tokens .{0,30}is longer than the maximum"
    r"|exceeds the available context size|`inputs` tokens \+ `max_new_tokens` must be|prompt is too long: \d",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ -](?:filter|policy|management)|responsibleaipolicy|invalid_prompt|flagged as potentially violating",
    re.IGNORECASE,
)
_RETRYABLE = re.compile(
    r"concurren|rate.?limit|too many requests|overload|capacity|throttl|temporar|try again|retry|\bbusy\b|queue",
    re.IGNORECASE,
)
_RETRYABLE_STATUS = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.LOCKED,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_KEY_STATUS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED}
_ADDRESS_STATUS = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE}
_MOST_TOKENS = 10_000_000  # maximum tokens of one answer; a larger count is an error of the server
_FINISH: dict[Any, FinishReason] = {"length": "length", "max_tokens": "length", "content_filter": "filtered"}


class RetryableError(Exception):
    """The server is overloaded or unreachable, or its response is not an answer: a retry after `after` seconds may
    succeed.

    `since` is when this request first failed, by the monotonic clock.
    """

    def __init__(self, what: str, hint: str = "see its log", after: float = 0.0) -> None:
        self.what, self.hint, self.after, self.since = what, hint, after, 0.0
        super().__init__(what)


class RejectedError(Exception):
    """The server permanently refuses this request."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


@dataclass(frozen=True)
class Reply:
    """One answer; `model` is the name of the model according to the server, or empty."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    output_tokens: int = 0
    model: str = ""


def read_reply(status: int, headers: Mapping[str, str], body: bytes, max_tokens: int) -> Reply:
    """The answer in a server's response to a request for at most `max_tokens` tokens.

    Raises:
        RetryableError: the server is overloaded or failing, or its response is not an answer.
        RejectedError: it refuses this request.
        UserError: it refuses the key, or the address or the model is unknown.
    """
    content = _parsed(body)
    fine = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
    if not fine or (isinstance(content, dict) and content.get("error") and not content.get("choices")):
        return _read_error(status, headers, content, body)

    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    text = _text(message.get("content")) if isinstance(message, dict) else None
    if not isinstance(content, dict) or not isinstance(choice, dict) or not isinstance(message, dict) or text is None:
        start = printable(body[:200].decode(errors="replace"), 60)
        hint = "check that llm.server_url leads to a server of the OpenAI protocol"
        raise RetryableError(f"the LLM server's response is not a chat completion: {start!r}", hint)

    usage = content.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt_tokens, output_tokens = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    finish, refusal, model = choice.get("finish_reason"), message.get("refusal"), content.get("model")
    reason = _FINISH.get(finish, "stop") if isinstance(finish, str) else "stop"
    if isinstance(refusal, str) and refusal.strip():
        text, reason = refusal, "refused"
    elif reason == "length" and 0 < output_tokens < max_tokens:
        reason = "too_long"  # vLLM shortens the answer to the room that the prompt leaves in the context

    return Reply(text, reason, prompt_tokens, output_tokens, model if isinstance(model, str) else "")


def _read_error(status: int, headers: Mapping[str, str], content: Any, body: bytes) -> Reply:
    """Classifies an error response for the row. Raises unless it is caused by the length or content of the row."""
    code, words = _error(content, body)
    if status < HTTPStatus.BAD_REQUEST and code.isdigit() and 400 <= int(code) < 600:
        status = int(code)  # a proxy passes on the status of the server behind it
    said = f"{code} {words}"
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and _TOO_LONG.search(said):
        return Reply("", "too_long")
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and _FILTERED.search(said):
        return Reply(words, "filtered")

    if code == "insufficient_quota" or status == HTTPStatus.PAYMENT_REQUIRED:
        raise UserError(
            f"the quota of the account at the LLM server is used up: {words}", hint="see its plan and billing"
        )

    if status in _KEY_STATUS:
        raise UserError(f"the LLM server refuses the key: {words}", hint="set the variable that llm.api_key_env names")
    if status in _ADDRESS_STATUS or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        what = f"the LLM server does not know the model or the address (status {status}): {words}"
        raise UserError(what, hint="check llm.model and llm.server_url")

    fine = status < HTTPStatus.MULTIPLE_CHOICES
    if fine or status in _RETRYABLE_STATUS or status >= HTTPStatus.INTERNAL_SERVER_ERROR or _RETRYABLE.search(said):
        label = "an error in place of an answer" if fine else f"status {status}"
        raise RetryableError(f"the LLM server fails with {label}: {words}", after=_retry_after(headers))

    raise RejectedError(f"the LLM server refuses the request (status {status}): {words}")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, strict=False)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of a million digits, a million brackets
        return None


def _text(content: Any) -> str | None:
    """The text of a message's content, which may be in parts; null is an empty text. None for anything else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MOST_TOKENS else 0


def _error(content: Any, body: bytes) -> tuple[str, str]:
    """(code, message) of an error response in any of the usual formats."""
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return "", printable(error if isinstance(error, str) else body[:400].decode(errors="replace"), 200)
    code = error.get("code") or error.get("type") or ""
    words = error.get("message") or error.get("detail") or error
    return printable(str(code), 60), printable(words if isinstance(words, str) else json.dumps(words), 200)


def _retry_after(headers: Mapping[str, str]) -> float:
    """The delay in seconds that the server requests, as a number or as a date; 0 if it requests none."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return 0.0

    return seconds if 0 < seconds < float("inf") else 0.0
