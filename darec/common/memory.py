"""Checks the memory limit. Without this check, libraries hang or exit without a message."""

import resource

from darec.common.errors import UserError

_NEEDED = 3 * 2**30
"""Address space that a run of the smallest data set needs: 2.7 GB, most of it reserved and never used."""
_LIMITS = {"ulimit -v": resource.RLIMIT_AS, "ulimit -d": resource.RLIMIT_DATA}


def check_address_space() -> None:
    """Raises UserError if a limit of the shell leaves too little address space to load Polars and PyTorch."""
    for name, limit in _LIMITS.items():
        size, _ = resource.getrlimit(limit)
        if size != resource.RLIM_INFINITY and size < _NEEDED:
            what = f"this process may use {size // 2**20:,} MiB of memory, and darec needs {_NEEDED // 2**20:,} MiB"
            raise UserError(what, where=name, hint=f"raise the limit: {name} unlimited")
