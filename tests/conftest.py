"""What several test files share."""

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# Before torch is loaded: on the tiny models of tests a second OpenMP thread costs many times what it brings, and the
# last bits of sums depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts background processes with SIGINT ignored, which the processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take any time. Every run tries the same examples, so that a test that passes here
# passes elsewhere; `pytest --hypothesis-profile new` tries others.
settings.register_profile("darec", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("new", settings.get_profile("darec"), derandomize=False)
settings.load_profile("darec")

LONGEST = [
    "flows/test_service.py",
    "llm/test_llm.py",
    "llm/test_pipeline.py",
    "llm/test_second_day.py",
    "contract/test_parallel.py",
    "integration/test_bench_scale.py",
    "flows/test_database.py",
    "integration/test_random_kills.py",
    "flows/test_cli.py",
    "integration/test_machines.py",
]


class OneProcess(LoadFileScheduling):
    """Each file is run by one process, and so is the folder `llm`, whose tests share an engine."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/llm" if file.startswith("tests/llm/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """With `--dist loadfile`, files are distributed as in `OneProcess`."""
    return OneProcess(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: a process that gets one of them last would work alone at the end."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same random numbers, whichever tests ran before it in its process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


NEW = [("u000", "i001"), ("u000", "i003"), ("u999", "i000"), ("u001", "i777")]


@pytest.fixture(scope="session")
def nights(tmp_path_factory):
    """Two nights, as store and keys of each: a first release, then one with `NEW`: a new user, a new item."""
    from darec.artifacts.store import Store
    from tests.report_samples import grown, make_hostile, recipe, run

    folder = tmp_path_factory.mktemp("nights")
    chosen = recipe(folder)
    make_hostile(folder)
    first = run(chosen)
    grown(folder, NEW)
    return Store(chosen.runtime.store), first, run(chosen)
