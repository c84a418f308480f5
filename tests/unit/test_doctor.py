"""`darec doctor`: what is wrong with a store, and how to fix it."""

import shutil
from pathlib import Path

from darec.artifacts.store import Artifact, Store
from darec.common.recipes import load_recipe
from pipelines.doctor import Finding, examine
from schemas.manifest import MANIFEST
from stages.walk import run
from tests.stores import recipe_for


def artifacts_of(path: Path) -> list[Finding]:
    return [each for each in examine(load_recipe(path)) if each.what == "artifacts"]


def truncate(artifact: Artifact, name: str) -> None:
    path = artifact.path / name
    path.write_bytes(path.read_bytes()[:-20])


def test_damaged_artifacts_are_named_and_the_hint_repairs_them(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), recipe_for(tmp_path, tmp_path / "store")
    assert artifacts_of(path) == [], "there is no store yet"
    run(load_recipe(path), "graph")
    (fine,) = artifacts_of(path)
    assert (fine.level, fine.detail) == ("ok", "3, all with their files")

    split, ingest = (store.artifacts(stage)[0] for stage in ("split", "ingest"))
    old = ingest.path.with_name("0" * len(ingest.key))  # no recipe needs it any more
    shutil.copytree(ingest.path, old)
    truncate(Artifact(old), MANIFEST)
    truncate(split, MANIFEST)
    truncate(ingest, "items.parquet")
    found = artifacts_of(path)
    assert {each.level for each in found} == {"missing"} and all("run again" in each.hint for each in found)
    assert {each.detail.partition(" [")[2] for each in found} == {f"{each}]" for each in (split.path, ingest.path, old)}
    assert sum(each.detail.startswith("the manifest cannot be read") for each in found) == 2

    run(load_recipe(path), "graph")
    (left,) = artifacts_of(path)
    assert str(old) in left.detail
    shutil.rmtree(old)
    assert [each.level for each in artifacts_of(path)] == ["ok"]
