"""Requests per second and latencies of a running `darec serve` with several concurrent clients."""

import itertools
import threading
import time
from collections.abc import Sequence

import httpx
import numpy as np


def load(url: str, users: Sequence[str], seconds: float, clients: int, k: int) -> dict[str, float]:
    """Requests `/recommend` for one user after the other; each client sends a request as soon as it has the previous
    answer.

    Returns:
        requests, failed, requests per second, and the 50th and 99th percentile of the seconds of a request.
    """
    took: list[float] = []
    failed: list[int] = []
    numbers = itertools.count()
    ends = time.perf_counter() + seconds

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while (began := time.perf_counter()) < ends:
                answer = client.get(f"{url}/recommend", params={"user": users[next(numbers) % len(users)], "k": k})
                took.append(time.perf_counter() - began)
                if answer.status_code != httpx.codes.OK:
                    failed.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    middle, late = np.quantile(took, [0.5, 0.99]).tolist()
    return {
        "requests": len(took),
        "failed": len(failed),
        "requests per second": len(took) / seconds,
        "seconds, median": middle,
        "seconds, 99th percentile": late,
    }
