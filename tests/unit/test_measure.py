"""What a step cost: a peak between two samples is not missed, and one from before is not counted."""

import json
import subprocess
import sys

# In a process that does nothing else: the memory of the tests before would be part of what is measured.
MEASURED = """
import json
import numpy as np
from darec.common.measure import Measure

def peak(mebibytes):
    with Measure(interval=60) as cost:
        np.ones(mebibytes * 2**20, np.uint8)
    return cost.peak_memory_mb

print(json.dumps([peak(1), peak(500), peak(1)]))
"""


def test_a_short_peak_is_seen_and_that_of_an_earlier_step_does_not_count() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=300)
    before, large, after = json.loads(done.stdout)
    assert large > before + 400 and after < large - 400
