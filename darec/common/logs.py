"""Logs of library and stages through `logging`, as text or as JSON lines for a log collector.

Code logs to `logging.getLogger(__name__)`; numbers go into `extra`, such as `extra={"rows": 938, "seconds": 1.2}`.
The fields of `context` (run, stage) are added to each record inside its block.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO

from darec.common.errors import UserError
from darec.common.printable import printable

Format = Literal["text", "json"]

FORMAT_VARIABLE = "DAREC_LOG"
"""The environment variable for the format."""
PACKAGES = ("darec", "stages", "benchmarks", "pipelines")
"""The loggers of this project."""

_ORDINARY = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_context: ContextVar[Mapping[str, Any]] = ContextVar("log_context", default=MappingProxyType({}))


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Adds fields to every record that is logged inside the block, on top of those of the blocks around it."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def configure(form: Format | None = None, stream: TextIO | None = None) -> None:
    """Sends the project's logs to `stream` (default: standard error), in the format given or that of `FORMAT_VARIABLE`.

    As text, only warnings and errors are shown, because the terminal shows progress in another way; as JSON, everything
    from INFO. Handlers added by others, such as Prefect's, are kept.

    Raises:
        UserError: the variable has an unknown value.
    """
    form = form or chosen_format()
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.setLevel(logging.INFO if form == "json" else logging.WARNING)

    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [each for each in logger.handlers if not isinstance(each, _Handler)] + [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def chosen_format() -> Format:
    """The format in `FORMAT_VARIABLE`, by default text. Raises UserError for an unknown format."""
    name = os.environ.get(FORMAT_VARIABLE) or "text"
    if name not in ("text", "json"):
        raise UserError(f"no such log format: {name!r}", where=FORMAT_VARIABLE, hint="text or json")
    return name


class _Handler(logging.StreamHandler[TextIO]):
    """A separate class, to distinguish darec's handler from those of others."""


class TextFormatter(logging.Formatter):
    """`warning: message`, the format of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return f"{record.levelname.lower()}: {printable(super().format(record))}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the fields of `context` and of `extra`, and a
    traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
            **{name: value for name, value in vars(record).items() if name not in _ORDINARY},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return printable(json.dumps(line, ensure_ascii=False, default=str))
