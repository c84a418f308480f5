"""Beginning with the model in production: which model that is, and which row belongs to whom."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from darec.artifacts.keys import content_hash
from darec.artifacts.store import Artifact, Store, file_records
from darec.artifacts.tables import write_table
from darec.serving.releases import Releases
from darec.serving.warmstart import Source, carry_over, current_model
from schemas.manifest import InputRecord, Manifest
from schemas.tables import ITEM_VOCABULARY, USER_VOCABULARY
from tests.release_samples import GATE, export

# Row n of the model in production is [n, n]: users ann, bob, cat, then items x, y.
PRODUCTION = torch.arange(5, dtype=torch.float32)[:, None].repeat(1, 2)
USERS, ITEMS = ["ann", "bob", "cat"], ["x", "y"]


def write_vocabularies(folder: Path, users: list[str], items: list[str]) -> None:
    numbers = [list(range(len(ids))) for ids in (users, items)]
    tables = ({"user_index": numbers[0], "user_id": users}, {"item_index": numbers[1], "item_id": items})
    for side, table, schema in zip(("users", "items"), tables, (USER_VOCABULARY, ITEM_VOCABULARY), strict=True):
        write_table(pl.DataFrame(table, schema=schema), folder / f"{side}.parquet", schema)


def commit(store: Store, stage: str, write) -> Artifact:
    with store.draft(stage, "k") as draft:
        write(draft)
        manifest = Manifest(
            stage=stage, key="k", why=(), material={}, inputs={}, files=file_records(draft), rows=1, report={},
            created=datetime.now(UTC), seconds=0.0, peak_memory_mb=0.0, code="", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def commit_train(store: Store, embedding: torch.Tensor) -> Artifact:
    def write(folder: Path) -> None:
        save_file({"user": embedding[:3].clone(), "item": embedding[3:].clone()}, folder / "embeddings.safetensors")
        save_file({"embedding": embedding}, folder / "model.safetensors")

    return commit(store, "train", write)


def publish(store: Store, **seen: tuple[Artifact, str]) -> None:
    """A release made from these artifacts, of each of which export saw the named file."""
    bundle = export(store)
    inputs = {
        stage: InputRecord(key=artifact.key, content=content_hash(artifact.hashes, (file,)), files=(file,))
        for stage, (artifact, file) in seen.items()
    }
    (bundle.path / "manifest.json").write_text(bundle.manifest.model_copy(update={"inputs": inputs}).model_dump_json())
    assert Releases(store.root).publish(bundle.path, GATE).state == "published"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a release."""
    store = Store(tmp_path / "store")
    split = commit(store, "split", lambda folder: write_vocabularies(folder, USERS, ITEMS))
    publish(store, split=(split, "users.parquet"), train=(commit_train(store, PRODUCTION), "embeddings.safetensors"))
    return store


def carried(source: Source, folder: Path, users: list[str], items: list[str], dim: int = 2) -> torch.Tensor | None:
    write_vocabularies(folder, users, items)
    return carry_over(source, folder / "users.parquet", folder / "items.parquet", dim)


def test_without_a_release_there_is_nothing_to_begin_with(tmp_path: Path):
    assert current_model(tmp_path) is None


def test_a_forced_train_begins_with_the_released_model_and_not_with_the_one_that_took_its_key(store, tmp_path):
    before = current_model(store.root)
    assert before is not None
    fingerprint = before.fingerprint
    commit_train(store, PRODUCTION + 100)  # never released: it may have diverged
    source = current_model(store.root)
    assert source is not None and source.fingerprint == fingerprint
    embedding = carried(source, tmp_path, USERS, ITEMS)
    assert embedding is not None and torch.equal(embedding, PRODUCTION)


def test_a_released_model_that_is_gone_is_not_stood_in_for(store):
    commit_train(store, PRODUCTION + 100)
    shutil.rmtree(store.root / "replaced")
    assert current_model(store.root) is None
    store.remove(store.artifact("train", "k"))
    assert current_model(store.root) is None


def test_rows_follow_their_external_ids_and_new_ones_have_none(store, tmp_path):
    source = current_model(store.root)
    assert source is not None
    # cat and ann change places around the new dan, bob vanishes; y comes first, z is new, x stays.
    embedding = carried(source, tmp_path, ["cat", "dan", "ann"], ["y", "z", "x"])
    assert embedding is not None and embedding.shape == (6, 2)
    nan = torch.nan
    expected = torch.tensor([2, nan, 0, 4, nan, 3])[:, None].repeat(1, 2)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=0, equal_nan=True)


def test_an_item_is_no_user_of_the_same_name(store, tmp_path):
    source = current_model(store.root)
    assert source is not None
    embedding = carried(source, tmp_path, ["x"], ["ann"])
    assert embedding is not None and embedding.isnan().all()


def test_embeddings_of_another_width_are_not_carried_over(store, tmp_path):
    source = current_model(store.root)
    assert source is not None
    assert carried(source, tmp_path, USERS, ITEMS, dim=3) is None
