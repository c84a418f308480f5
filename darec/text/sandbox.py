"""Where prompt templates run: a Jinja sandbox, tested first in a separate process.

A template is a program, and nothing stops a running one from within: a loop over all pairs of a hundred thousand
numbers, a text of ten gigabytes, a macro that calls itself. So a template is rendered once in a child process, which
the system ends after a second of processor time and refuses more than 128 MiB, with values as long as those of any row
can be. Afterwards a row costs nothing more.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from darec.common.errors import DarecError

SECONDS = 1.0  # of processor time, so that a busy machine changes nothing
_MEMORY = 2**27
_MOST_CHARS = 200_000  # of all blocks together
_PATIENCE = 60.0  # seconds by the clock, for a machine that is too busy even to start a process

RANDOM = ("random", "lipsum")
"""Names that give another text each time, and so another key of each row every night."""

Outcome = Literal["fine", "template error", "slow", "memory", "recursion", "long", "crash"]


@dataclass(frozen=True)
class Trial:
    """How rendering a template went."""

    outcome: Outcome
    texts: dict[str, str] = field(default_factory=dict)
    """The text of each block, if all went well."""
    last_words: str = ""
    """What a process that crashed wrote last."""


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox of all prompts, without what is random."""
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in RANDOM:
        sandbox.globals.pop(name, None)
        sandbox.filters.pop(name, None)
    return sandbox


def render_block(template: Template, block: str, values: Mapping[str, Any]) -> str:
    """The text of one block."""
    context = template.new_context(dict(values))
    return "".join(template.blocks[block](context)).strip()


def try_out(source: str, values: Mapping[str, Any]) -> Trial:
    """Renders all blocks of a template in a separate process.

    That process hashes texts by another seed, so what depends on the order of a set or on an address shows as a text
    that differs from one rendered here.

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
    """The child: reads template and values from standard input, writes the result."""
    job = json.loads(sys.stdin.buffer.read())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)

    texts: dict[str, str] = {}
    outcome: Outcome = "fine"
    try:
        template = environment().from_string(job["source"])
        for block in template.blocks:
            texts[block] = render_block(template, block, job["values"])
        if sum(map(len, texts.values())) > _MOST_CHARS:
            outcome = "long"
    except MemoryError:
        outcome = "memory"
    except RecursionError:
        outcome = "recursion"
    except Exception:  # whatever it is, it comes again where it can be explained
        outcome = "template error"

    signal.setitimer(signal.ITIMER_PROF, 0)
    json.dump({"outcome": outcome, "texts": texts if outcome == "fine" else {}}, sys.stdout)


if __name__ == "__main__":
    _main()
