"""Ids that look like paths make no file outside the store, and nothing that is kept can carry code."""

import re
from pathlib import Path

import pytest

from darec.common.errors import UserError
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from stages.registry import task_named
from stages.walk import run
from tests.stores import recipe_for

SOURCES = [path for room in ("schemas", "darec", "stages", "pipelines") for path in Path(room).rglob("*.py")]
FORMATS = {".parquet", ".safetensors", ".json", ".faiss", ".lock"}
HOSTILE = {"u000": "../../../u000", "u001": "/etc/passwd", "i000": "../i000", "i001": "..", "i002": "~/.ssh/id"}


def test_hostile_ids_stay_inside_the_store(tmp_path: Path) -> None:
    path = recipe_for(tmp_path, tmp_path / "deep" / "down" / "store")
    for table in (tmp_path / "data").glob("*.csv"):
        text = table.read_text()
        for plain, hostile in HOSTILE.items():
            text = re.sub(rf"\b{plain}\b", hostile, text)
        table.write_text(text)
    recipe = load_recipe(path)
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    run(recipe)
    made = {file for file in tmp_path.rglob("*") if file.is_file()} - before
    assert made and all(file.is_relative_to(recipe.runtime.store) for file in made)
    assert {file.suffix for file in made} <= FORMATS
    assert recommend(Bundle.open(recipe.runtime.store / "current"), "../../../u000", 3).height > 0
    for name in ("../../../etc", "/etc/passwd", ".."):
        with pytest.raises(UserError):
            Releases(recipe.runtime.store).get(name)
        with pytest.raises(UserError):
            task_named(name)


def test_no_source_reads_or_writes_pickles() -> None:
    pickles = re.compile(r"\bpickle\.|\bimport pickle|\bjoblib\b|torch\.load\(|allow_pickle=True")
    assert len(SOURCES) > 100
    assert [path for path in SOURCES if pickles.search(path.read_text())] == []
