"""How much memory a piece of work takes at its peak, measured in a separate process."""

import os
import subprocess
import sys

_PRELUDE = """
import re
def _memory(name):
    with open("/proc/self/status") as status:
        return int(re.search(name + r":\\s+(\\d+)", status.read())[1]) * 1024
def _mark():
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is that from here on
    return _memory("VmRSS")
"""


def peak_growth(setup: str, work: str) -> int:
    """Bytes by which resident memory grows at most while `work` runs, after `setup`; both are Python code."""
    script = f"{_PRELUDE}\n{setup}\n_before = _mark()\n{work}\nprint(_memory('VmHWM') - _before)"
    alike = os.environ | {"POLARS_MAX_THREADS": "1"}  # each thread has memory of its own
    done = subprocess.run([sys.executable, "-c", script], env=alike, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return int(done.stdout.split()[-1])
