"""Keeps freed memory in the process, which halves the time of a step on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # constants of mallopt(3)


def keep_freed_memory(limit: int = 1 << 30) -> None:
    """Makes glibc reuse blocks of up to `limit` bytes instead of returning them to the kernel, which causes page
    faults.

    Has no effect with other C libraries.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_MMAP_THRESHOLD, limit)
        libc.mallopt(_TRIM_THRESHOLD, limit)
