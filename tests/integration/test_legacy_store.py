"""A store, ledger and releases that version 0.1 wrote still serve, roll back and give their rows."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend_many
from darec.serving.releases import Releases
from stages.plan import plan
from stages.walk import run

ARCHIVE = Path(__file__).parents[1] / "legacy" / "store-0.1.tar.gz"
"""Sixteen users, twelve items, two releases, made by 0.1 with the packaged LLM and encoder."""
MODELS = Path("data/models").resolve()


@pytest.fixture
def legacy(tmp_path, monkeypatch):
    """A copy of the old store, with the recipe and prompts that made it, as the working folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAREC_MODELS", os.environ.get("DAREC_MODELS", str(MODELS)))
    return load_recipe(tmp_path / "recipe.yaml")


def test_every_artifact_of_an_old_store_is_a_hit(legacy):
    steps = plan(legacy, Store(legacy.runtime.store), "export")
    assert [step.task.name for step in steps if step.state != "hit"] == []


def test_an_old_release_recommends_and_rolls_back(legacy):
    releases = Releases(legacy.runtime.store)
    newest, oldest = releases.all()
    assert releases.current() == newest
    answer = recommend_many(Bundle.open(legacy.runtime.store / "current"), ["u000"], 3)
    assert answer.height == 3
    assert releases.rollback().id == oldest.id
    assert recommend_many(Bundle.open(legacy.runtime.store / "current"), ["u000"], 3).height == 3


def test_rows_of_an_old_ledger_are_not_generated_again(legacy):
    """With the artifacts gone only the ledger knows what was paid for."""
    for stage in ("profile_items", "profile_users", "embed"):
        for folder in (legacy.runtime.store / "artifacts" / stage).iterdir():
            shutil.rmtree(folder)
    reports = {result.stage: result.report for result in run(legacy, "embed")}
    assert [reports[stage].generated for stage in ("profile_items", "profile_users", "embed")] == [0, 0, 0]
    assert reports["profile_users"].from_ledger == 13  # distinct prompts of the 16 users
