"""What a person should know though the work goes on: one line in the log, once per process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from darec.common.printable import printable

_logger = logging.getLogger("darec")
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def tell_once(message: str) -> None:
    """Logs a warning, unless this process did already. File names may hold anything: the line is made printable."""
    line = printable(" ".join(message.split()))
    if (lines := _collected.get()) is not None and line not in lines:
        lines.append(line)
    _log_once(line)


@contextmanager
def collected() -> Iterator[list[str]]:
    """The lines that are told in the block, whether the log has them already or not."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)


@lru_cache(maxsize=1000)
def _log_once(line: str) -> None:
    _logger.warning("%s", line)
