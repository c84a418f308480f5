"""What a step cost: wall seconds and the peak memory of the process and all its children."""

import threading
import time
from types import TracebackType

import psutil

_SPARING = 50  # pause after a sample, in times what the sample took


class Measure:
    """Context manager; samples the memory of the whole process tree twice a second, or less often where that is slow.

    A page shared by several processes (libraries) counts once: the sum is of proportional set sizes. The kernel walks
    every page for it, a tenth of a second and more for an LLM engine, so sampling takes at most a fiftieth of the time.
    """

    def __init__(self, interval: float = 0.5) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = time.perf_counter()
        self.peak_memory_mb = 0.0

    def __enter__(self) -> "Measure":
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

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


def _tree_memory(process: psutil.Process) -> int:
    return sum(_memory(member) for member in [process, *process.children(recursive=True)])


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
