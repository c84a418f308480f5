"""Warnings: one line in the log, once per process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from darec.common.printable import printable

_logger = logging.getLogger("darec")
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


def warn_once(message: str) -> None:
    """Logs a warning once per process. Control characters, for example in file names, are escaped."""
    line = printable(" ".join(message.split()))
    if (lines := _collected.get()) is not None and line not in lines:
        lines.append(line)
    _log_once(line)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collects the warnings of the block, including those that were logged before."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)


@lru_cache(maxsize=1000)
def _log_once(line: str) -> None:
    _logger.warning("%s", line)
