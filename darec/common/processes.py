"""Keeping child processes from outliving their parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks Linux to kill the calling process when its parent dies, however that happens; elsewhere does nothing.

    Called in the child: as `preexec_fn`, or first thing in a pool worker.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError):
        return
    if os.getppid() == 1:  # the parent died before the request
        os.kill(os.getpid(), signal.SIGKILL)
