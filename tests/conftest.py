"""What several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is loaded: on the tiny models of tests a second OpenMP thread costs many times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a busy machine an example may take any time.
settings.register_profile("darec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("darec")

LONGEST = [
    "flows/test_service.py",
    "integration/test_pipeline.py",
    "integration/test_llm.py",
    "integration/test_second_day.py",
    "contract/test_parallel.py",
    "integration/test_bench_scale.py",
    "flows/test_database.py",
    "integration/test_random_kills.py",
    "flows/test_cli.py",
    "integration/test_machines.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: a process that gets one of them last would work alone at the end."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
