"""What a person should know though the work goes on: one line in the log, once per process."""

import logging
from functools import lru_cache

from darec.common.printable import printable

_logger = logging.getLogger("darec")


@lru_cache(maxsize=1000)
def tell_once(message: str) -> None:
    """Logs a warning, unless this process did already. File names may hold anything: the line is made printable."""
    _logger.warning("%s", printable(" ".join(message.split())))
