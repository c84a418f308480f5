"""Runs that are killed, from a process that has imported everything: the kills hit work, not imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_SCRIPT = """
import json, os, signal, sys
from itertools import count
from pathlib import Path
import darec.evaluation.report, darec.serving.bundle, darec.text.encoder, darec.text.profiling, darec.text.server
import darec.training, stages.registry
from darec.common.recipes import load_recipe
from stages import execute as executor
from stages.walk import run

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_in(stage, when):
    whole = executor._compute

    def compute(job, store, progress, why):
        if job.stage == stage and when == "before":
            with store.draft(job.stage, job.key):
                kill()
        if job.stage == stage:
            store.commit = lambda draft, manifest: kill()
        return whole(job, store, progress, why)

    executor._compute = compute

print("ready", flush=True)
for line in iter(sys.stdin.readline, ''):
    child = os.fork()
    if child == 0:
        os.close(1)
        overrides, last, place = json.loads(line)
        recipe, calls = load_recipe(Path("recipe.yaml"), overrides), count(1)

        def counted(frame, event, argument):
            if event.endswith("call") and next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        if last is not None:
            sys.setprofile(counted)
        if place is not None:
            kill_in(*place)
        run(recipe, force=place[:1] if place else ())
        sys.setprofile(None)
        Path("calls").write_text(str(next(calls)))
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
        with self._process:
            self._process.kill()

    def run_and_kill(self, overrides: Sequence[str], seconds: float) -> bool:
        """Starts a run and kills it -9 after `seconds`; False if it had ended by then."""
        self._write(json.dumps([list(overrides), None, None]))
        child = int(self._read())
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        self._write("reap")
        return os.waitstatus_to_exitcode(int(self._read())) == -signal.SIGKILL

    def run_and_kill_at(self, overrides: Sequence[str], call: int) -> bool:
        """A run that kills itself -9 at its `call`-th call of a function; False if it ended before, without an error.

        The moment does not depend on the machine's load. The file `calls` then says how many calls a whole run makes.
        """
        return self._killed_itself(list(overrides), call, None)

    def run_and_kill_in(self, stage: str, when: str) -> bool:
        """A run that is forced to run `stage` again, and kills itself -9 in it; False if it ended without an error.

        Args:
            stage: the stage.
            when: before the work, or after it and before the artifact is in its place.
        """
        return self._killed_itself([], None, (stage, when))

    def _killed_itself(self, *request: object) -> bool:
        self._write(json.dumps(request))
        self._read()
        self._write("reap")
        code = os.waitstatus_to_exitcode(int(self._read()))
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
