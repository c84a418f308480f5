"""The stages export and publish on hand-made upstream artifacts, run as the pipeline runs them."""

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from darec.artifacts.keys import artifact_key
from darec.artifacts.store import Artifact, Store, file_records
from darec.artifacts.tables import write_table
from darec.common.errors import DarecError
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from schemas.tables import ITEM_VOCABULARY, ITEMS, SPLIT_PART, USER_VOCABULARY
from stages import export
from stages.declarations import EXPORT, PUBLISH
from stages.walk import run_task

# Two users, four items; item 3 has neither title nor train interactions, user 1 is only in test.
VECTORS = {
    "user": np.array([[1, 0], [0, 1]], np.float32),
    "item": np.array([[3, 0], [2, 1], [1, 2], [0, 3]], np.float32),
}
PAIRS = {"train": [(0, 0), (0, 2)], "val": [(0, 1)], "test": [(1, 1)]}
METRICS = {"test": {"recall@20": 0.3, "ndcg@20": 0.2, "coverage@20": 0.5}, "validation": {"recall@20": 0.9}}


def commit(store: Store, stage: str, write) -> Artifact:
    with store.draft(stage, "x") as draft:
        write(draft)
        files = file_records(draft)
        key = artifact_key({"stage": stage, "files": {name: record.sha256 for name, record in files.items()}})
        facts = {
            "why": (),
            "material": {"version": 1, "config": {}, "extra": {}},
            "inputs": {},
            "rows": 1,
            "report": {},
        }
        facts |= {"created": datetime.now(UTC), "seconds": 0, "peak_memory_mb": 0, "code": "", "versions": {}}
        return store.commit(draft, Manifest(stage=stage, key=key, files=files, **facts))


def write_split(folder):
    for part, pairs in PAIRS.items():
        users, items = zip(*pairs, strict=True)
        rows = {"user_index": users, "item_index": items, "rating": None, "timestamp": None}
        write_table(pl.DataFrame(rows, schema=SPLIT_PART), folder / f"{part}.parquet", SPLIT_PART)
    users = pl.DataFrame({"user_index": [0, 1], "user_id": ["ann", "bob"]}, schema=USER_VOCABULARY)
    items = pl.DataFrame({"item_index": range(4), "item_id": ["a", "b", "c", "d"]}, schema=ITEM_VOCABULARY)
    write_table(users, folder / "users.parquet", USER_VOCABULARY)
    write_table(items, folder / "items.parquet", ITEM_VOCABULARY)


def write_items(folder):
    names = {"item_id": ["d", "z", "c", "a", "b"], "title": [None, "Gone", "Cee", "Ay", "Bee"]}
    write_table(
        pl.DataFrame(names | {"description": "", "attributes": None}, schema=ITEMS), folder / "items.parquet", ITEMS
    )


def upstream(store, vectors=None, metrics=None) -> dict[str, Artifact]:
    def write_vectors(folder):
        save_file(vectors or VECTORS, folder / "embeddings.safetensors")

    def write_metrics(folder):
        (folder / "metrics.json").write_text(json.dumps(metrics or METRICS))

    writers = {"ingest": write_items, "split": write_split, "train": write_vectors, "evaluate": write_metrics}
    return {stage: commit(store, stage, write) for stage, write in writers.items()}


def run_export(store, **changes):
    return run_task(EXPORT, Recipe(), upstream(store, **changes), store)


def run_publish(store, exported, recipe=None):
    return run_task(PUBLISH, recipe or Recipe(), {"export": exported.artifact}, store)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_the_bundle_joins_ids_titles_counts_vectors_and_all_known_pairs(store):
    bundle = Bundle.open(run_export(store).artifact.path)
    assert bundle.items.rows() == [("a", "Ay", 1), ("b", "Bee", 0), ("c", "Cee", 1), ("d", "d", 0)]
    users = bundle.users(["ann", "bob"])
    assert users.select("user_index", "user_id", "train_count").rows() == [(0, "ann", 2), (1, "bob", 0)]
    np.testing.assert_array_equal(vectors_of(users), VECTORS["user"])
    np.testing.assert_array_equal(vectors_of(bundle.item_vectors(list("abcd"))), VECTORS["item"])
    assert bundle.seen([0, 1]).rows() == [(0, 0), (0, 1), (0, 2), (1, 1)]
    assert bundle.report.metrics == METRICS["test"]
    assert recommend(bundle, "ann").select("item_id", "score").rows() == [("d", 0.0)]


def test_exporting_again_is_a_hit_and_elsewhere_gives_the_same_bytes(store, tmp_path_factory):
    first = run_export(store)
    assert run_export(store).cached
    other = Store(tmp_path_factory.mktemp("other"))
    assert run_export(other).artifact.hashes == first.artifact.hashes


def test_vectors_that_do_not_fit_the_vocabulary_are_refused(store):
    with pytest.raises(DarecError, match=r"3 vectors for a vocabulary of 4 rows \(items\.parquet\)"):
        run_export(store, vectors={"user": VECTORS["user"], "item": VECTORS["item"][:3]})


def test_publish_is_done_once_and_then_settled(store):
    exported = run_export(store)
    first = run_publish(store, exported)
    assert (first.cached, first.report.state) == (False, "published")
    assert Releases(store.root).current().id == first.report.release
    second = run_publish(store, exported)
    assert second.cached
    assert "current already" in second.why[0]


def test_a_diverged_model_is_refused_and_production_stays(store):
    good = run_publish(store, run_export(store))
    broken = {"user": VECTORS["user"], "item": np.where(VECTORS["item"] == 3, np.nan, VECTORS["item"])}
    exported = run_export(store, vectors=broken, metrics={"test": {**METRICS["test"], "recall@20": None}})
    refused = run_publish(store, exported)
    assert refused.report.state == "refused"
    assert "2 items whose vector holds NaN" in refused.report.reason
    assert "metrics that are not a number: recall@20" in refused.report.reason
    assert Releases(store.root).current().id == good.report.release
    assert "was refused" in run_publish(store, exported).why[0]


@pytest.mark.parametrize(
    ("side", "order", "moved"), [("item", [1, 0, 2, 3], 2), ("user", [1, 0], 2), ("item", [3, 0, 1, 2], 4)]
)
def test_vectors_under_the_ids_of_others_are_refused(store, monkeypatch, side, order, moved):
    joined = export._with_vectors

    def permuted(context, vocabulary, vectors, train, index):
        moves = index == f"{side}_index"
        return joined(context, vocabulary, vectors[order] if moves else vectors, train, index)

    monkeypatch.setattr(export, "_with_vectors", permuted)
    exported = run_export(store)
    assert exported.report.misplaced == moved
    refused = run_publish(store, exported)
    assert refused.report.state == "refused"
    assert f"{moved} users and items whose vector is not that of their id" in refused.report.reason


def test_an_id_that_was_never_trained_has_no_vector_of_its_own(store, monkeypatch):
    joined = export._with_vectors

    def renamed(context, vocabulary, *rest):
        rows = joined(context, vocabulary, *rest)
        return rows.with_columns(pl.col("user_id").replace("bob", "eve")) if "user_id" in rows.columns else rows

    monkeypatch.setattr(export, "_with_vectors", renamed)
    assert run_export(store).report.misplaced == 1


def test_a_diverged_vector_is_still_that_of_its_id(store):
    broken = {"user": VECTORS["user"] * np.float32(np.nan), "item": VECTORS["item"]}
    report = run_export(store, vectors=broken).report
    assert (report.misplaced, report.bundle().users.not_finite) == (0, 2)


def test_a_changed_gate_is_asked_again(store):
    run_publish(store, run_export(store))
    worse = run_export(store, metrics={"test": {**METRICS["test"], "coverage@20": 0.001}})
    assert run_publish(store, worse).report.state == "refused"
    lenient = Recipe.model_validate({"gate": {"minimums": {"coverage@20": 0.0001}}})
    assert run_publish(store, worse, lenient).report.state == "published"
