"""What several test files share."""

import os

import pytest

# Before torch is loaded: on the tiny models of tests a second OpenMP thread costs many times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
