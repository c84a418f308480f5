"""Your own data in two commands: what `darec data inspect` prints is a recipe that `darec run` runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from darec.common.recipes import load_recipe
from pipelines.cli import app, guarded
from schemas.search import SearchConfig
from stages.walk import run
from tests.logs import ROWS, TITLES, delimited

LOG = delimited(
    "\t", ("visitor", "sku", "stars", "when"), [*ROWS, *((f"x{n}", "i1", 5, 1_500_000_000) for n in range(3))]
)
ITEMS = "sku;name;genres;image\n" + "".join(f"{i};{title};A|B;http://x/{i}\n" for i, title in TITLES.items())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "log.tsv").write_text(LOG)
    (tmp_path / "things.csv").write_text(ITEMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_commands_read_any_log(folder: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from pipelines.cli import main; main()",
        "data",
        "inspect",
        "log.tsv",
        "things.csv",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (folder / "mine.yaml").write_text(found.stdout)
    assert "worth showing to an LLM: genres; left out: image" in found.stderr

    recipe = load_recipe(Path("mine.yaml"), ["runtime.store=store", "split.k_core=0"])
    assert recipe.search == SearchConfig(), "the default weight of the texts suits sparse data"
    ingest, split = run(recipe, "split")
    assert ingest.artifact is not None and ingest.artifact.manifest.report["rows_in"] == len(ROWS) + 3
    assert split.artifact is not None
    assert split.artifact.manifest.report["users"] == ingest.artifact.manifest.report["users"] > 10


def test_files_that_are_no_log_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.xlsx").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    for places, words in (("x.xlsx", "save the sheet as CSV"), ("things.csv", "no file looks like interactions")):
        assert guarded(lambda places=places: app(["data", "inspect", places], standalone_mode=False)) == 2
        assert words in capsys.readouterr().err
