"""The servers of one model, and the choice of the server for the next request.

Requests go to the server that is expected to answer first: the one with the fewest open requests, weighted by its
response time. A server that fails, or refuses the key or the model, is paused, twice as long each time, and then gets a
single request. If it answers, it is used again.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from darec.common.errors import UserError
from darec.text.replies import RejectedError, RetryableError
from schemas.secret import SecretURL
from schemas.semantic import LLMConfig

_FIRST_REST = 0.5  # seconds after a failure; doubled for each further one
_LONGEST_REST = 60.0
_NEWEST = 0.2  # weight of the latest answer in the mean response time

_logger = logging.getLogger(__name__)


def address(url: SecretURL, path: str) -> httpx.URL:
    """The address of a call such as `/chat/completions` at a server, without user and password."""
    base = httpx.URL(url.get_secret_value())
    return base.copy_with(path=base.path.rstrip("/") + path, userinfo=b"", fragment=None)


def access(config: LLMConfig, url: SecretURL) -> dict[str, Any]:
    """The credentials of an HTTP client: user and password of the address, and the key.

    Raises:
        UserError: the key cannot be sent.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the address of each request
    key = os.environ.get(config.api_key_env, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(
            "the key of the LLM server holds characters that cannot be sent",
            where=config.api_key_env,
            hint="set the variable to the key alone",
        )

    base = httpx.URL(url.get_secret_value())
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return {"auth": (base.username, base.password) if base.userinfo else None, "headers": headers}


@dataclass(eq=False)
class Server:
    """One server and its state."""

    name: str
    """Its address without user and password."""
    url: httpx.URL
    client: httpx.AsyncClient
    open: int = 0
    """Number of open requests."""
    seconds: float = 0.0
    """Mean response time of its latest answers; 0 before the first."""
    failures: int = 0
    """Number of pauses since its last answer."""
    rests_until: float = 0.0
    """End of its pause, by `time.monotonic`."""
    refuses: bool = False
    """Whether its latest response was a refusal of every request, such as that of an unknown model."""
    waits_until: float = 0.0
    """The time before which it has asked not to be called, by `time.monotonic`."""

    @property
    def resting(self) -> bool:
        """Whether it gets no request now: it is paused, or being tried after a pause."""
        return time.monotonic() < max(self.rests_until, self.waits_until) or (self.failures > 0 and self.open > 0)

    def answered(self, seconds: float) -> None:
        """Records an answer and its response time."""
        self.seconds = _NEWEST * seconds + (1 - _NEWEST) * self.seconds if self.seconds else seconds
        if self.failures:
            _logger.warning("the LLM server %s answers again", self.name)
        self.failures, self.rests_until, self.refuses = 0, 0.0, False

    def failed(self, why: str, after: float) -> None:
        """Pauses it, for at least the delay that it asked for.

        Failures of requests that were open together count once.
        """
        now = time.monotonic()
        if now >= self.rests_until:
            if not self.failures:
                _logger.warning("the LLM server %s fails (%s); others get its rows", self.name, why)
            self.rests_until = now + min(_FIRST_REST * 2**self.failures, _LONGEST_REST)
            self.failures += 1
        self.waits_until = max(self.waits_until, now + after)


@dataclass
class Servers:
    """All servers of one model. A single server is never paused."""

    all: list[Server]
    most_open: int
    """Maximum number of open requests per server."""
    _room: asyncio.Condition = field(default_factory=asyncio.Condition)

    @classmethod
    def of(cls, config: LLMConfig) -> "Servers":
        """The configured servers. Raises UserError if the key cannot be sent."""
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        made = [
            Server(
                name=str(url),
                url=address(url, "/chat/completions"),
                # httpx bounds each read, not the whole response: see `ServerEngine._try`
                client=httpx.AsyncClient(**access(config, url), timeout=None, limits=limits, follow_redirects=True),
            )
            for url in config.servers
        ]
        return cls(made, config.concurrency)

    @property
    def several(self) -> bool:
        """Whether there are several servers."""
        return len(self.all) > 1

    @property
    def names(self) -> str:
        """The addresses without user and password."""
        return ", ".join(server.name for server in self.all)

    def others_left(self, failed: Collection[Server]) -> bool:
        """Whether there is an available server that has not failed at this row."""
        return any(server not in failed and not server.resting for server in self.all)

    @asynccontextmanager
    async def chosen(self, failed: set[Server]) -> AsyncIterator[Server]:
        """The server for the next request of a row, as soon as one has capacity.

        Servers in `failed` get the row only if no other is left. A server that fails in the block is added to them.

        Raises:
            UserError: all servers refuse the key, the model or the address; if only some do, RetryableError.
        """
        async with self._room:
            while (server := self._choose(failed)) is None:
                await self._room.wait()
            server.open += 1
        try:
            yield server
        except RetryableError as fault:
            failed.add(server)
            if self.several:
                server.failed(fault.what, fault.after)
            raise
        except RejectedError:
            failed.add(server)
            raise
        except UserError as error:
            failed.add(server)
            server.refuses = True
            if all(each.refuses for each in self.all):
                raise
            server.failed(error.what, 0.0)
            raise RetryableError(error.what, error.hint) from error
        finally:
            server.open -= 1
            async with self._room:
                self._room.notify_all()

    async def close(self) -> None:
        """Closes the connections."""
        for server in self.all:
            await server.client.aclose()

    def _choose(self, failed: Collection[Server]) -> Server | None:
        """The server that is expected to answer first, or None if no available server has capacity.

        If all are paused, the one with the shortest remaining pause is tried, to determine whether all have failed.
        """
        awake = [server for server in self.all if not server.resting]
        candidates = [server for server in awake if server not in failed] or awake
        if not candidates:
            candidates = [min(self.all, key=lambda server: max(server.rests_until, server.waits_until))]
        unknown = min((server.seconds for server in self.all if server.seconds), default=1.0)
        free = [server for server in candidates if server.open < self.most_open]
        return min(free, key=lambda server: (server.open + 1) * (server.seconds or unknown), default=None)
