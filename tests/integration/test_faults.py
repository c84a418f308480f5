"""Faults at the worst moments, on real stages: a full disk, a read-only store, a flipped bit. Kills: test_pipeline."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from schemas.recipe import Recipe
from stages.plan import plan
from stages.prepare import prepare
from stages.walk import run
from tests.disks import full, small_disk
from tests.stores import contents, flip_a_bit, recipe_for


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("faults")
    recipe = load_recipe(recipe_for(folder, folder / "calm"))
    run(recipe)
    return folder, recipe


def test_a_flipped_bit_in_any_file_is_found_and_mended(undisturbed: tuple[Path, Recipe], tmp_path: Path):
    folder, calm = undisturbed
    shutil.copytree(calm.runtime.store, tmp_path / "store", symlinks=True)
    recipe = load_recipe(recipe_for(folder, tmp_path / "store"))
    store, before = Store(recipe.runtime.store), contents(recipe.runtime.store)
    files = [(artifact.stage, artifact.path / name) for artifact in store.artifacts() for name in artifact.hashes]
    for stage, path in files:
        flip_a_bit(path)
        if stage == "export":
            with pytest.raises(DarecError, match="damaged|checksum"):
                Releases(store.root).promote(Releases(store.root).all()[0].id)
        made_anew = [result.stage for result in run(recipe) if not result.cached and result.artifact]
        assert made_anew == [stage], path
        assert contents(store.root) == before
    assert len(list((store.root / "damaged").iterdir())) == len(files)


def test_a_damaged_manifest_counts_as_no_artifact(undisturbed: tuple[Path, Recipe], tmp_path: Path):
    folder, calm = undisturbed
    shutil.copytree(calm.runtime.store, tmp_path / "store", symlinks=True)
    recipe = load_recipe(recipe_for(folder, tmp_path / "store"))
    before = contents(recipe.runtime.store)
    [graph] = Store(recipe.runtime.store).artifacts("graph")
    (graph.path / "manifest.json").write_bytes(b'{"stage": "graph"')
    assert [result.stage for result in run(recipe) if not result.cached and result.artifact] == ["graph"]
    assert contents(recipe.runtime.store) == before


@pytest.fixture(name="small_disk")
def one_mebibyte(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1) as disk:
        yield disk


def test_a_full_disk_is_named_loses_nothing_and_is_survived(undisturbed: tuple[Path, Recipe], small_disk: Path):
    folder, calm = undisturbed
    recipe = load_recipe(recipe_for(folder, small_disk / "store"))
    with full(small_disk, but_for=60 * 1024):
        with pytest.raises(UserError, match="disk is full"):
            run(recipe)
        assert all(artifact.damage(checksums=True) is None for artifact in Store(small_disk / "store").artifacts())
    run(recipe)
    assert contents(small_disk / "store") == contents(calm.runtime.store)


def test_too_little_free_disk_is_refused_before_any_work(undisturbed: tuple[Path, Recipe], small_disk: Path):
    folder, _ = undisturbed
    with pytest.raises(UserError, match="GiB free, 1 GiB wanted"):
        prepare(load_recipe(recipe_for(folder, small_disk / "store"), ["runtime.min_free_gb=1"]))


def test_a_read_only_store_still_answers_and_says_why_it_takes_nothing_new(
    undisturbed: tuple[Path, Recipe], small_disk: Path
):
    folder, _ = undisturbed
    recipe = load_recipe(recipe_for(folder, small_disk / "store"))
    run(recipe)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert [step.state for step in plan(recipe, Store(recipe.runtime.store))] == ["hit"] * 7
    assert recommend(Bundle.open(small_disk / "store" / "current"), "u000", 3).height > 0
    with pytest.raises(UserError, match="cannot be written"):
        run(recipe, force=["graph"])
