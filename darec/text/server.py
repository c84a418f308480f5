"""Running servers with the OpenAI protocol (vLLM, or any with JSON-schema output).

A request that meets a transient error is retried with exponential backoff. If it still fails after the last retry, or
if the server rejects it, the cause is either this row or the server. If the server answers other rows, only this row
fails. Otherwise the run stops with an error, and the next run requests the open rows. With several servers, a row that
fails or is rejected is immediately retried at another one, and "the server" means any of them.
"""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from darec.common.errors import TransientError, UserError
from darec.common.warnings import warn_once
from darec.text.answers import printable
from darec.text.protocol import Answer, Conversation, Request
from darec.text.replies import RejectedError, Reply, RetryableError, read_reply
from darec.text.servers import Server, Servers
from schemas.semantic import LLMConfig

_FIRST_PAUSE = 0.5  # seconds before the first retry; doubled for each further one
_LONGEST_PAUSE = 60.0
_MOST_CUT_ANSWERS = 2  # for one row
_MOST_BYTES = 8 * 2**20  # of one response


@dataclass
class _Batch:
    """The shared state of the workers of one call of `generate`."""

    waiting: Iterator[Request]
    settings: dict[str, Any]
    doubtful_limit: int
    """After this number of failed rows without any answer, the server is considered faulty."""
    finished: list[Answer] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a row or a worker has finished."""
    doubtful: list[tuple[Request, RetryableError | RejectedError]] = field(default_factory=list)
    """Rows that failed before any other row was answered: whether the row or the server is the
    cause is decided later.
    """

    def finish(self, answer: Answer) -> None:
        """Adds an answer for the next call of `take`."""
        self.finished.append(answer)
        self.news.set()

    def take(self) -> list[Answer]:
        """The answers since the last call."""
        taken, self.finished = self.finished, []
        return taken


def common_fields(config: LLMConfig, schema: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """The common fields of all requests."""
    return {
        "model": config.model,
        "frequency_penalty": config.frequency_penalty,
        "max_tokens": max_tokens,
        "response_format": {"type": "json_schema", "json_schema": {"name": "profile", "schema": schema}},
    }


def request_body(request: Request, messages: Conversation, common: dict[str, Any]) -> dict[str, Any]:
    """The request of one row."""
    return {"messages": list(messages), "temperature": request.temperature, "seed": request.seed, **common}


class ServerEngine:
    """Keeps at most `concurrency` requests open at a server, and yields answers as they finish, so that a kill loses
    none.
    """

    def __init__(self, config: LLMConfig) -> None:
        self.config = config
        self._servers = Servers.of(config)
        self._runner = asyncio.Runner()
        self._good: tuple[Request, Conversation, dict[str, Any]] | None = None  # the last answered request
        self._answered = 0.0  # the time of its answer

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Yields answers as they finish. Answers that arrived before a failure or Ctrl-C are yielded before it is
        raised.

        Raises:
            UserError: the server refuses every request, the model's name or the key.
            TransientError: the server cannot be reached, or is still failing after all retries.
        """
        open_at_once = min(self.config.concurrency * len(self._servers.all), len(requests))
        settings = common_fields(self.config, schema, max_tokens)
        batch = _Batch(iter(requests), settings, open_at_once)
        workers = self._runner.run(self._start(batch, open_at_once))

        # Workers are stopped even if an exception or the caller ends the generator early.
        failure: BaseException | None = None
        running = True
        try:
            while running and failure is None:
                try:
                    running, failure = self._runner.run(self._wait(workers, batch))
                except BaseException as interrupt:
                    failure = interrupt
                if answers := batch.take():
                    yield answers
        finally:
            self._runner.run(self._stop(workers))

        if failure is not None:
            raise failure

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._servers.close())
        self._runner.close()

    async def _start(self, batch: _Batch, count: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._work(batch)) for _ in range(count)]

    async def _wait(self, workers: list[asyncio.Task[None]], batch: _Batch) -> tuple[bool, BaseException | None]:
        """Waits until a row or a worker has finished. Returns whether workers are active, and their error."""
        if workers:
            await batch.news.wait()
            batch.news.clear()

        failure = next((failure for task in workers if task.done() and (failure := task.exception())), None)
        if failure is not None or not all(task.done() for task in workers):
            return failure is None, failure

        try:
            await self._decide(batch)
        except (UserError, TransientError) as failure:
            return False, failure

        return False, None

    async def _stop(self, workers: list[asyncio.Task[None]]) -> None:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, batch: _Batch) -> None:
        """Requests one row after the other until none is left."""
        try:
            for request in batch.waiting:  # shared by all workers, so that each row is taken once
                try:
                    reply, server = await self._answer(request, batch.settings)
                except (RetryableError, RejectedError) as fault:
                    batch.doubtful.append((request, fault))
                    if self._good is not None or len(batch.doubtful) >= batch.doubtful_limit:
                        await self._decide(batch)
                else:
                    tokens = reply.prompt_tokens, reply.output_tokens
                    batch.finish(Answer(request.key, reply.text, reply.finish_reason, *tokens, server.name))
        finally:
            batch.news.set()

    async def _decide(self, batch: _Batch) -> None:
        """Decides the doubtful rows: a row is the cause of its failure if the server answers others, else the server
        is.

        Raises:
            UserError: no row was ever answered, and the server refuses this one.
            TransientError: the server answers no other row either.
        """
        doubtful, batch.doubtful = batch.doubtful, []
        for request, fault in doubtful:
            if isinstance(fault, RejectedError):
                if self._good is None:
                    raise UserError(fault.what, where=self._servers.names, hint="check llm.model and its server")
                batch.finish(Answer(request.key, fault.what, "rejected", 0, 0))
            else:
                if not await self._healthy(fault):
                    raise TransientError(fault.what, where=self._servers.names, hint=fault.hint)
                batch.finish(Answer(request.key, fault.what, "failed", 0, 0))

    async def _healthy(self, fault: RetryableError) -> bool:
        """Whether a server has answered since the row first failed, or answers a request that it
        has answered before.
        """
        if self._good is None:
            return False
        if self._answered > fault.since:
            return True

        for server in self._servers.all:
            try:
                await self._try(server, *self._good)
            except (RetryableError, RejectedError):
                continue
            except UserError:
                if not self._servers.several:
                    raise
            else:
                return True

        return False

    async def _answer(self, request: Request, settings: dict[str, Any]) -> tuple[Reply, Server]:
        """The reply to the longest version of the prompt that fits, and its server.

        Each version is tried as in `_with_retries`.
        """
        reply, server = await self._with_retries(request, request.messages, settings)
        paid = 0
        for messages in request.shorter:
            # A refused prompt costs nothing, but an answer without enough room does.
            paid += reply.output_tokens > 0
            if reply.finish_reason != "too_long" or paid > _MOST_CUT_ANSWERS:
                break
            reply, server = await self._with_retries(request, messages, settings)

        return reply, server

    async def _with_retries(
        self, request: Request, messages: Conversation, settings: dict[str, Any]
    ) -> tuple[Reply, Server]:
        """The reply, after at most `retries` retries: immediately at other servers, then with exponential backoff."""
        first_failed = 0.0
        failed: set[Server] = set()
        tries = max(self.config.retries + 1, len(self._servers.all))
        for attempt in range(tries):
            try:
                async with self._servers.chosen(failed) as server:
                    return await self._try(server, request, messages, settings), server
            except RejectedError:
                if attempt == tries - 1 or not self._servers.others_left(failed):
                    raise
            except RetryableError as fault:
                first_failed = fault.since = first_failed or time.monotonic()
                if attempt == tries - 1:
                    raise
                if self._servers.others_left(failed):
                    continue
                if fault.after > max(self.config.timeout, _LONGEST_PAUSE):
                    raise
                # Random delays, so that rows that failed together are not retried together.
                pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
                await asyncio.sleep(fault.after + pause)

        raise AssertionError("unreachable")

    async def _try(self, server: Server, request: Request, messages: Conversation, settings: dict[str, Any]) -> Reply:
        """One request, limited to `llm.timeout` in total. Raises the errors of `read_reply`."""
        content, begun = request_body(request, messages, settings), time.monotonic()
        try:
            async with (
                asyncio.timeout(self.config.timeout),
                server.client.stream("POST", server.url, json=content) as got,
            ):
                body = bytearray()
                async for part in got.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise RetryableError(f"the LLM server's response has more than {_MOST_BYTES:,} bytes")
            reply = read_reply(got.status_code, got.headers, bytes(body), settings["max_tokens"])
        except TimeoutError as error:
            raise RetryableError(f"no answer within {self.config.timeout:g} s", "raise llm.timeout") from error
        except httpx.ConnectError as error:
            hint = "start it, or correct llm.server_url"
            raise RetryableError("the LLM server cannot be reached", hint) from error
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            what = f"the LLM server's response was interrupted ({type(error).__name__})"
            raise RetryableError(what) from error
        except UserError as error:
            raise UserError(error.what, where=server.name, hint=error.hint) from error

        if reply.finish_reason != "too_long":
            self._good, self._answered = (request, messages, settings), time.monotonic()
            server.answered(self._answered - begun)

        self._tell_other_model(server, reply.model)
        return reply

    def _tell_other_model(self, server: Server, name: str) -> None:
        """Warns if another model answers than the requested one; dated and prefixed forms of its name are accepted."""
        asked = self.config.model
        if name and not (name.startswith(asked) or asked.endswith(name) or name.endswith(asked)):
            answering = f"the LLM server {server.name} answers as model {printable(name, 80)!r}"
            warn_once(f"{answering}, not {asked!r}: its rows are stored as those of {asked!r}")
