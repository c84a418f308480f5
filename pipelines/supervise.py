"""Supervised processes: one that ends is restarted, unless it ends repeatedly."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Never, Self

from darec.common.errors import DarecError
from darec.common.processes import die_with_parent

_INTERVAL = 0.5  # seconds between checks whether a process has ended
_PAUSE = 3  # seconds before a process that ended is started again
_LASTED = 60  # a process that ran for this many seconds counts as healthy
_TRIES = 5  # starts without a healthy process
_STOP_SECONDS = 60  # seconds; a worker that is asked to stop ends its runs first

_logger = logging.getLogger(__name__)


class Part:
    """One process of a service, started at once.

    Args:
        name: name in messages.
        command: program and arguments.
        environment: variables on top of those of this process.
        log: file to which the output is appended; by default the output of this process.
        stop: signal that asks it to end. It is also sent when this process dies.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self._command, self._environment, self._log, self._stop = command, environment or {}, log, stop
        self._tries = 0
        self._start()

    @property
    def pid(self) -> int:
        """Id of the current process."""
        return self._process.pid

    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Waits until `ready` returns true; returns False if the process ends or the time is over before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.returncode() is None:
            if ready():
                return True
            time.sleep(0.05)
        return False

    def restart_if_ended(self) -> None:
        """Restarts it after a pause. Raises DarecError if it ends repeatedly."""
        if self._process.poll() is None:
            return
        if self._ended is None:
            self._ended = time.monotonic()
            self._tries = 1 if self._ended - self._started > _LASTED else self._tries + 1
            if self._tries == _TRIES:
                raise DarecError(f"the {self.name} ended repeatedly", hint=f"see its messages {self._log or 'above'}")
            _logger.warning("the %s ended with exit code %s and is restarted", self.name, self._process.returncode)
        elif time.monotonic() - self._ended > _PAUSE:
            self._start()

    def end(self) -> None:
        """Terminates it, and kills it with its children if it does not end."""
        self._process.send_signal(self._stop)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _start(self) -> None:
        with open(self._log or os.devnull, "ab") as log:  # noqa: PTH123  (devnull is no Path)
            output = log if self._log else None
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=output,
                preexec_fn=partial(_in_child, self._stop, os.getpid()),  # noqa: PLW1509  (no thread has been started)
                process_group=0,  # Ctrl-C in the terminal reaches only this process, which ends the others
            )
        self._started, self._ended = time.monotonic(), None


class Parts:
    """The processes of a service: started in order, kept alive, and ended in the opposite order."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def add(self, part: Part) -> Part:
        """Adds a process."""
        self._parts.append(part)
        return part

    def keep_alive(self) -> Never:
        """Runs until it is interrupted. Raises DarecError if a process ends repeatedly."""
        while True:
            for part in self._parts:
                part.restart_if_ended()
            time.sleep(_INTERVAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in reversed(self._parts):
            part.end()


def _in_child(stop: signal.Signals, parent: int) -> None:
    # shells start background processes with SIGINT ignored, which Prefect's worker sends itself in order to end
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(stop, parent)
