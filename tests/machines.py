"""Machines that share a store: processes with a cache each, forked from one that has imported everything."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import wait_for

_SCRIPT = """
import json, os, sys
from pathlib import Path
import darec.evaluation.report, darec.serving.bundle, darec.text.encoder, darec.text.profiling, darec.text.server
import darec.training, obstore.store, sentence_transformers, stages.registry
from darec.common.recipes import load_recipe
from stages.walk import run
print("ready", flush=True)
for line in iter(sys.stdin.readline, ''):
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.close(1)
        os.environ.update(order["environment"])
        try:
            results = run(load_recipe(Path("recipe.yaml"), order["overrides"]), order["until"])
            found = [[result.stage, result.state] for result in results]
        except BaseException as error:
            found = repr(error)
        Path(order["out"]).with_suffix(".part").write_text(json.dumps(found))
        Path(order["out"]).with_suffix(".part").rename(order["out"])
        os._exit(0)
    print(child, flush=True)
"""


@dataclass
class Run:
    """A run on one machine. Nobody reaps its process before the test's end: its number stays its own."""

    process: int
    out: Path

    def kill(self) -> None:
        """Kills it -9."""
        assert not self.out.exists()
        os.kill(self.process, signal.SIGKILL)

    def states(self) -> dict[str, str]:
        """State of each task, when it is over."""
        assert wait_for(self.out.exists, 300)
        found: Any = json.loads(self.out.read_text())
        assert isinstance(found, list), found
        return dict(found)


class Machines:
    """Starts runs of `recipe.yaml` in a folder, each on a machine that is named."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        )
        assert self._read() == "ready"

    def start(self, machine: str, until: str, overrides: Sequence[str] = (), *, lease_seconds: int = 60) -> Run:
        """Begins a run. Only a machine that is to be killed needs short leases: a busy machine may renew them late."""
        self._count += 1
        out = self._folder / f"run-{self._count}.json"
        environment = {"DAREC_CACHE": str(self._folder / machine), "DAREC_LEASE_SECONDS": str(lease_seconds)}
        order = {"environment": environment, "until": until, "overrides": list(overrides), "out": str(out)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Run(int(self._read()), out)

    def end(self) -> None:
        """Ends the process that forks."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
