"""Runs that are killed, and commands, from a process that has imported everything: neither waits for imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # not closed: a process that it starts would have no stdout
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

    def run_and_kill_when(self, overrides: Sequence[str], condition: Callable[[], bool]) -> int:
        """Starts a run, and kills it -9 as soon as `condition` holds; afterwards none of its children may be left.

        The number of children that it had.
        """
        self._write(json.dumps([list(overrides), None, None]))
        child = psutil.Process(int(self._read()))
        try:
            deadline = time.monotonic() + 240
            while not condition():
                assert child.status() != psutil.STATUS_ZOMBIE, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            children = child.children(recursive=True)
        finally:
            child.kill()
            self._write("reap")
            self._read()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, alive
        return len(children)

    def run_and_kill_at(self, overrides: Sequence[str], call: int) -> bool:
        """A run that kills itself -9 at its `call`-th call of a function; False if it ended before, without an error.

        The moment does not depend on the machine's load. The file `calls` then says how many calls a whole run makes.
        """
        return self._killed_itself(list(overrides), call, None)

    def run_and_kill_in(self, stage: str, when: str, overrides: Sequence[str] = ()) -> bool:
        """A run that is forced to run `stage` again, and kills itself -9 in it; False if it ended without an error.

        Args:
            stage: the stage.
            when: before the work, or after it and before the artifact is in its place.
            overrides: settings of the run.
        """
        return self._killed_itself(list(overrides), None, (stage, when))

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


_COMMANDS = """
import json, os, sys
import darec.report.render, darec.serving.recommend, pipelines.direct, pipelines.doctor, stages.export
from pipelines.cli import main
print("ready", flush=True)
for line in iter(sys.stdin.readline, ''):
    child = os.fork()
    if child == 0:
        folder, environment, outputs, arguments = json.loads(line)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for descriptor, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = ["darec", *arguments]
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """`darec` commands in one folder, each in a fork of a process that has imported what commands use.

    Args:
        folder: the working directory of the commands.
        environment: their variables.
        outputs: a folder for what they print.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], outputs: Path) -> None:
        self._folder, self._environment = folder, dict(environment)
        self._outputs = [outputs / "stdout", outputs / "stderr"]

    def __enter__(self) -> "Commands":
        command = [sys.executable, "-c", _COMMANDS]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and all that was printed: standard output, then standard error."""
        done = self.call(*arguments)
        return done.returncode, done.stdout + done.stderr

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command that has ended; `environment` comes on top of the variables of all commands."""
        request = [str(self._folder), {**self._environment, **environment}, list(map(str, self._outputs)), arguments]
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        code = int(self._answers.readline())
        return subprocess.CompletedProcess(arguments, code, *(path.read_bytes().decode() for path in self._outputs))
