"""The cost of a step: wall time in seconds, and the peak memory of the process and all its children."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

_SPARING = 50  # pause after a sample, as a multiple of its duration


class Measure:
    """Context manager that samples the memory of the process tree twice per second, or less often if sampling is slow.

    For this process the kernel records the peak, so short peaks between two samples are included.

    A page shared by several processes (libraries) counts once: the sum is of proportional set sizes. Computing them
    takes the kernel a tenth of a second or more for an LLM engine, so sampling is limited to 2% of the time.
    """

    def __init__(self, interval: float = 0.5) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = time.perf_counter()
        self.peak_memory_mb = 0.0

    def __enter__(self) -> "Measure":
        self._start = time.perf_counter()
        _reset_peak()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_memory_mb = max(self.peak_memory_mb, _own_peak() / 2**20)

    @property
    def seconds(self) -> float:
        """Wall seconds since entry."""
        return time.perf_counter() - self._start

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            began = time.perf_counter()
            self.peak_memory_mb = max(self.peak_memory_mb, _tree_memory(process) / 2**20)
            if self._stop.wait(max(self._interval, _SPARING * (time.perf_counter() - began))):
                return


def _reset_peak() -> None:
    """Resets the kernel's peak of this process (proc(5), clear_refs). Has no effect on other systems than Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _own_peak() -> int:
    """The peak resident memory since the last reset, in bytes; 0 if the kernel does not report it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _tree_memory(process: psutil.Process) -> int:
    return sum(_memory(member) for member in [process, *process.children(recursive=True)])


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
