"""One engine with the real small LLM for all tests of this folder, which run in one process."""

from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from darec.text.engine import EngineSettings, OfflineEngine
from darec.text.models import resolve
from schemas.semantic import LLMConfig


@pytest.fixture(scope="package")
def engine() -> Iterator[OfflineEngine]:
    """The model is loaded at the first row, in whatever folder that is asked. The engine leaves no process behind."""
    config = LLMConfig(workers=1, chunk=64, dtype="float32", max_model_len=512)
    with OfflineEngine(EngineSettings.of(config, resolve(config.model).resolve())) as engine:
        yield engine
    assert _engines_of_this_process() == []


def _engines_of_this_process() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended in between; so has a zombie
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found
