"""What a step cost: a peak between two samples is not missed, and one from before is not counted."""

import numpy as np

from darec.common.measure import Measure

MB = 2**20


def test_a_short_peak_is_seen():
    with Measure(interval=60) as cost:
        before = cost.peak_memory_mb
        np.ones(300 * MB, np.uint8)
    assert cost.peak_memory_mb > 300
    assert cost.peak_memory_mb < before + 2_000


def test_the_peak_of_an_earlier_step_does_not_count():
    with Measure(interval=60) as large:
        np.ones(500 * MB, np.uint8)
    with Measure(interval=60) as small:
        np.ones(1 * MB, np.uint8)
    assert small.peak_memory_mb < large.peak_memory_mb - 400
