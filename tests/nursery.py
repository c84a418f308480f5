"""Runs that are killed after some time, from a process that has imported everything: kills hit work, not imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_SCRIPT = """
import json, os, sys
from pathlib import Path
import darec.evaluation.report, darec.serving.bundle, darec.text.encoder, darec.text.profiling, darec.text.server
import darec.training, stages.registry
from darec.common.recipes import load_recipe
from stages.walk import run
print("ready", flush=True)
for line in iter(sys.stdin.readline, ''):
    child = os.fork()
    if child == 0:
        os.close(1)
        run(load_recipe(Path("recipe.yaml"), json.loads(line)))
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()  # until then the child's number is nobody else's, dead or alive
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """A process that forks a child for every run of `recipe.yaml` in the folder it was started in."""

    def __enter__(self) -> "Nursery":
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def run_and_kill(self, overrides: Sequence[str], seconds: float) -> bool:
        """Starts a run and kills it -9 after `seconds`; False if it had ended by then."""
        self._write(json.dumps(list(overrides)))
        child = int(self._read())
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        self._write("reap")
        return os.waitstatus_to_exitcode(int(self._read())) == -signal.SIGKILL

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
