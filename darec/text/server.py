"""A running server that speaks the OpenAI protocol (vLLM's own, or any with JSON-schema output)."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, BadRequestError

from darec.common.errors import DarecError, TransientError, UserError
from darec.text.protocol import Answer, Request
from schemas.semantic import LLMConfig

_CHUNK = 256


class ServerEngine:
    """Keeps at most `concurrency` requests open; what failed for a passing reason is tried again, ever more slowly."""

    def __init__(self, config: LLMConfig) -> None:
        self.config = config
        self._runner = asyncio.Runner()
        self._client = AsyncOpenAI(
            base_url=config.server_url.get_secret_value(),
            api_key=os.environ.get(config.api_key_env) or "none",
            timeout=config.timeout,
            max_retries=config.retries,
        )
        self._open = asyncio.Semaphore(config.concurrency)

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Answers chunk by chunk; those that came before a failure are given before it is raised.

        Raises:
            UserError: the server refuses the request, the model's name or the key.
            TransientError: the server cannot be reached, or is still failing after all retries.
        """
        size = self.config.chunk or max(_CHUNK, self.config.concurrency)
        for start in range(0, len(requests), size):
            answers, failure = self._runner.run(self._chunk(requests[start : start + size], schema, max_tokens))
            yield answers
            if failure is not None:
                raise failure

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._client.close())
        self._runner.close()

    async def _chunk(
        self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int
    ) -> tuple[list[Answer], BaseException | None]:
        """The answers, and what kept the others from coming."""
        tasks = [asyncio.create_task(self._ask(request, schema, max_tokens)) for request in requests]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        failures = [failure for task in done if (failure := task.exception()) is not None]
        answers = [task.result() for task in tasks if not task.cancelled() and task.exception() is None]
        return answers, failures[0] if failures else None

    async def _ask(self, request: Request, schema: dict[str, Any], max_tokens: int) -> Answer:
        async with self._open:
            try:
                completion: Any = await self._client.chat.completions.create(
                    model=self.config.model,
                    messages=list(request.messages),  # type: ignore[arg-type]
                    temperature=request.temperature,
                    seed=request.seed,
                    frequency_penalty=self.config.frequency_penalty,
                    max_tokens=max_tokens,
                    response_format={"type": "json_schema", "json_schema": {"name": "profile", "schema": schema}},
                )
            except BadRequestError as error:
                if "context length" in str(error) or "maximum" in str(error):
                    return Answer(request.key, "", "too_long", 0, 0)
                raise self._explained(error) from error
            except (APIStatusError, APIConnectionError) as error:
                raise self._explained(error) from error
        choice, usage = completion.choices[0], completion.usage
        reason = "stop" if choice.finish_reason == "stop" else "length"
        return Answer(
            request.key,
            choice.message.content or "",
            reason,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    def _explained(self, error: APIStatusError | APIConnectionError) -> DarecError:
        where = str(self.config.server_url)
        if isinstance(error, APITimeoutError):
            return TransientError(f"no answer within {self.config.timeout:g} s", where=where, hint="raise llm.timeout")
        if isinstance(error, APIConnectionError):
            return TransientError(
                "the LLM server cannot be reached", where=where, hint="start it, or correct llm.server_url"
            )
        if error.status_code in (401, 403):
            return UserError("the LLM server refuses the key", where=where, hint=f"set {self.config.api_key_env}")
        if error.status_code >= 500 or error.status_code == 429:
            return TransientError(
                f"the LLM server fails with status {error.status_code}", where=where, hint="look at its log"
            )
        return UserError(f"the LLM server refuses the request: {error.message}", where=where, hint="check llm.model")
