"""The figures of a run on a GPU: printed at its end, and written to `figures/NAME OF THE GPU.json` beside this file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent / "figures"
_KEY = pytest.StashKey[dict[str, Any]]()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the tests have measured, by name."""
    return request.config.stash.setdefault(_KEY, {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Shows and writes the figures, if a test on a GPU has measured any."""
    found = config.stash.get(_KEY, {})
    if not found or not torch.cuda.is_available():
        return
    name = torch.cuda.get_device_name()
    path = write(FOLDER, name, found)
    terminalreporter.section(f"figures of {name}, written to {path}")
    for what, values in found.items():
        terminalreporter.write_line(f"{what}: {values}")


def write(folder: Path, name: str, found: dict[str, Any]) -> Path:
    """The file of a GPU's figures, one line for each."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace(' ', '-')}.json"
    path.write_text(json.dumps({"gpu": name, "torch": torch.__version__} | found, indent=1) + "\n")
    return path
