"""Ends child processes when their parent dies."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Asks Linux to send the calling process a signal when its parent dies for any reason.

    Has no effect on other systems. It is called in the child: as `preexec_fn`, or at the start of a pool worker.

    Args:
        number: the signal.
        parent: the parent's process id. It is compared to detect a parent that died before the call, also in a
            container, where it may be 1.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, number)
    except (AttributeError, OSError):
        return
    orphaned = os.getppid() == 1 if parent is None else os.getppid() != parent
    if orphaned:
        os.kill(os.getpid(), number)
