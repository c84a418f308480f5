"""A store, ledger and releases that version 0.1 wrote still serve, roll back and give their rows."""

import os
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest

from darec.artifacts.store import Artifact, Store
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle
from darec.serving.evidence import gather
from darec.serving.recommend import recommend_many
from darec.serving.releases import Releases
from schemas.release import GateConfig
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
    """The recipe leaves DaRec's sample to the default, which was 512 rows in each step: only training is due again."""

    def due(recipe):
        return [step.task.name for step in plan(recipe, Store(recipe.runtime.store), "train") if step.state != "hit"]

    assert due(legacy) == ["train"]
    old_default = {"train.alignment.0.sample": 512, "train.alignment.0.every": 1}
    assert due(load_recipe(Path("recipe.yaml"), [f"{field}={value}" for field, value in old_default.items()])) == []


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


def test_a_bundle_of_an_old_store_is_compared_with_an_old_release_on_its_own_test(legacy):
    """Nothing was added to the bundles for it: what both need is in the old artifacts."""
    store = Store(legacy.runtime.store)
    releases = Releases(store.root)
    newest, oldest = releases.all()
    assert newest.decision.rules == 1 and newest.evidence.current is None
    bundle = Artifact(releases.folder(newest))
    evidence = gather(store, bundle, oldest, (), GateConfig(), legacy.evaluate)
    assert evidence.current is not None and evidence.current.against == oldest.id
    assert evidence.current.users == 16 and set(evidence.current.metrics) == {"recall@20", "ndcg@20"}
    assert evidence.reference is not None
    assert {stage: texts.empty for stage, texts in evidence.texts.items()} == {"profile_items": 0, "profile_users": 0}


@pytest.mark.parametrize("damage", ["byte", "cut", "empty"])
def test_a_plan_says_that_rows_are_missing_since_the_ledger_is_damaged_and_changes_nothing(legacy, damage):
    root = legacy.runtime.store
    artifacts, ledger = root / "artifacts" / "profile_items", root / "ledger" / "profiles.sqlite"
    [artifact] = artifacts.iterdir()
    profiles = pl.read_parquet(artifact / "profiles.parquet").filter(pl.col("source") == "llm")
    shutil.rmtree(artifact)
    run(legacy, "profile_items")  # imports the rows of version 0.1
    shutil.rmtree(ledger.with_suffix(""))
    shutil.rmtree(artifact)

    content = bytearray(ledger.read_bytes())
    content[content.index(profiles["profile"][0].encode()) + 3] ^= 1
    ledger.write_bytes({"byte": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in ledger.parent.glob("*.*")}
    for _ in range(2):  # a second plan in the same process says it, too
        step = next(step for step in plan(legacy, Store(root), "profile_items") if step.task.name == "profile_items")
        assert step.state == "stale"
        assert "damaged" in " ".join(step.why)
        assert step.rows == {"byte": 1, "cut": step.rows, "empty": 12}[damage] != 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in ledger.parent.glob("*.*")} == before
