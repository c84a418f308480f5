"""The Jinja sandbox of prompt templates, which are first tested in a separate process.

A template is a program that cannot be interrupted from within: a loop over all pairs of a hundred thousand numbers, a
text of ten gigabytes, an infinite recursion. A template is therefore rendered once in a child process, which is limited
to a second of processor time and 128 MiB, with values of the maximum length. Rendering rows then has no additional
cost.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from darec.common.errors import DarecError

SECONDS = 1.0  # seconds of processor time, so that the result does not depend on the load of the machine
_MEMORY = 2**27
_MOST_CHARS = 200_000  # maximum characters of all blocks together
_PATIENCE = 60.0  # seconds of wall-clock time, for a machine that is too busy to start a process

RANDOM = ("random", "lipsum")
"""Names that give a different text each time, and therefore a different key for each row in every run."""

Outcome = Literal["fine", "template error", "slow", "memory", "recursion", "long", "crash"]


@dataclass(frozen=True)
class Trial:
    """The outcome of rendering a template."""

    outcome: Outcome
    texts: dict[str, str] = field(default_factory=dict)
    """The text of each block, if rendering succeeded."""
    last_words: str = ""
    """The last output of a process that crashed."""


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox of all prompts, without random functions."""
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in RANDOM:
        sandbox.globals.pop(name, None)
        sandbox.filters.pop(name, None)
    return sandbox


def render_blocks(template: Template, values: Mapping[str, Any], blocks: Iterable[str]) -> dict[str, str]:
    """The texts of some blocks. A block cannot change what the others see, so they share one context, which takes
    longer to make than a block to render.
    """
    context = template.new_context(dict(values))
    return {block: "".join(template.blocks[block](context)).strip() for block in blocks}


def try_out(source: str, values: Mapping[str, Any]) -> Trial:
    """Renders all blocks of a template in a separate process.

    That process uses another hash seed, so that a dependence on the order of a set or on an address shows as a
    difference to a text rendered here.

    Raises:
        DarecError: no process can be started.
    """
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"

    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps({"source": source, "values": values}).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial("slow")
    except OSError as error:
        what = f"no process can be started to try out a prompt ({error.strerror})"
        raise DarecError(what, hint="free memory, or raise the limit on processes") from error

    if child.returncode in (-signal.SIGPROF, -signal.SIGXCPU):
        return Trial("slow")
    if child.returncode != 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        return Trial("crash", last_words=lines[-1] if lines else f"exit status {child.returncode}")

    return Trial(**json.loads(child.stdout))


def _main() -> None:
    """The child process: reads template and values from standard input, and writes the result."""
    job = json.loads(sys.stdin.buffer.read())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)

    texts: dict[str, str] = {}
    outcome: Outcome = "fine"
    try:
        template = environment().from_string(job["source"])
        texts = render_blocks(template, job["values"], template.blocks)
        if sum(map(len, texts.values())) > _MOST_CHARS:
            outcome = "long"
    except MemoryError:
        outcome = "memory"
    except RecursionError:
        outcome = "recursion"
    except Exception:  # the same error is raised again in the parent, which reports it
        outcome = "template error"

    signal.setitimer(signal.ITIMER_PROF, 0)
    json.dump({"outcome": outcome, "texts": texts if outcome == "fine" else {}}, sys.stdout)


if __name__ == "__main__":
    _main()
