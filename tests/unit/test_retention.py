"""What gc removes, and above all what it never does."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts.keys import content_hash
from darec.artifacts.store import Artifact, Store, file_records
from darec.common.errors import TransientError
from darec.serving.releases import Releases
from darec.serving.retention import closure, collect, newest
from schemas.manifest import InputRecord, Manifest

STAGES = ("ingest", "split", "train", "export")
WEEKS_LATER = 30 * 86_400


def add(store: Store, stage: str, key: str, inputs: dict[str, str], age: int = 0, text: str = "") -> Artifact:
    """An artifact with one file, made `age` seconds ago from the artifacts `inputs` (stage to key)."""
    with store.draft(stage, key) as draft:
        (draft / "data.bin").write_text(text or key * 10)
        manifest = Manifest(
            stage=stage,
            key=key,
            why=("test",),
            material={},
            inputs={name: InputRecord(key=used, content="", files=()) for name, used in inputs.items()},
            files=file_records(draft),
            rows=1,
            report={},
            created=datetime.now(UTC) - timedelta(seconds=age),
            seconds=0.0,
            peak_memory_mb=0.0,
            code="",
            versions={},
        )
        return store.commit(draft, manifest)


def referencing(monkeypatch: pytest.MonkeyPatch, bundles: set[Artifact]) -> None:
    monkeypatch.setattr(Releases, "referenced", lambda self, keep: bundles)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, dict[str, str]]]:
    """Nights of runs: each stage of a night is rebuilt from the newest of the stage before, or is a hit."""
    made: list[tuple[str, str, dict[str, str]]] = []
    newest_key: dict[str, str] = {}
    for night in range(draw(st.integers(1, 6))):
        for number, stage in enumerate(STAGES):
            if stage in newest_key and not draw(st.booleans()):
                continue
            before = STAGES[number - 1]
            key = f"k{night}{number}"
            made.append((stage, key, {before: newest_key[before]} if number else {}))
            newest_key[stage] = key
    return made


@settings(max_examples=30, deadline=None)
@given(history=histories(), keep=st.integers(1, 3), data=st.data())
def test_gc_keeps_what_is_referenced_and_all_it_was_made_from(history, keep, data):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("darec.artifacts.store.flush", lambda path: None)  # no power is cut here
        store = Store(Path(folder))
        made = [add(store, *record) for record in history]
        released = data.draw(st.sets(st.sampled_from([a for a in made if a.stage == "export"]), max_size=3))
        referencing(patch, released)
        must_stay = closure(store, [*released, *newest(store, keep)])
        before = {artifact.path for artifact in store.artifacts()}

        planned = collect(store, 5, keep, dry_run=True)
        assert {artifact.path for artifact in store.artifacts()} == before
        done = collect(store, 5, keep)

        after = set(store.artifacts())
        assert done == planned
        assert after == must_stay
        assert released <= after
        assert all(store.artifact(stage, r.key) in after for a in after for stage, r in a.manifest.inputs.items())
        assert {removal.path for removal in done.removed} == before - {artifact.path for artifact in after}
        assert all(artifact.damage(checksums=True) is None for artifact in after)
        assert collect(store, 5, keep).removed == ()


def test_lineage_of_an_old_release_outlives_newer_artifacts(tmp_path, monkeypatch):
    store = Store(tmp_path)
    old_split = add(store, "split", "old", {})
    bundle = add(store, "export", "released", {"split": "old"})
    forgotten = add(store, "split", "forgotten", {})
    newer = [add(store, "split", f"new{n}", {}) for n in range(2)]
    referencing(monkeypatch, {bundle})
    done = collect(store, releases=1, artifacts=2)
    assert {removal.path for removal in done.removed} == {forgotten.path}
    assert set(store.artifacts()) == {old_split, bundle, *newer}
    assert done.bytes > 0


def test_nothing_is_removed_while_another_process_is_at_work(tmp_path):
    store = Store(tmp_path)
    for number in range(3):
        add(store, "split", f"k{number}", {})
    code = "import sys, time; from darec.artifacts.store import Store; from pathlib import Path\n"
    code += f"with Store(Path({str(tmp_path)!r})).in_use(): print('held', flush=True); time.sleep(600)"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None and worker.stdout.readline() == "held\n"
        with pytest.raises(TransientError, match="a run is active"):
            collect(store, 1, 1)
        assert len(collect(store, 1, 1, dry_run=True).removed) == 2
        assert len(store.artifacts()) == 3
    finally:
        worker.kill()
        worker.communicate()
    assert len(collect(store, 1, 1).removed) == 2  # kill -9 leaves no lease behind


def rewrite_inputs(artifact: Artifact, inputs: dict[str, Artifact]) -> None:
    """The manifest says that it was made from what these artifacts hold now."""
    records = {
        stage: InputRecord(key=used.key, content=content_hash(used.hashes, ["data.bin"]), files=("data.bin",))
        for stage, used in inputs.items()
    }
    manifest = artifact.manifest.model_copy(update={"inputs": records})
    (artifact.path / "manifest.json").write_text(manifest.model_dump_json())


def test_a_replaced_artifact_stays_as_long_as_a_release_was_made_from_it(tmp_path, monkeypatch):
    store = Store(tmp_path)
    released = add(store, "train", "k", {"split": "old"}, text="released")
    add(store, "split", "old", {})
    bundle = add(store, "export", "b", {})
    rewrite_inputs(bundle, {"train": released})
    add(store, "train", "k", {}, text="never released")
    add(store, "train", "k", {}, text="forced once more")
    add(store, "split", "new", {})
    add(store, "export", "newer", {})
    referencing(monkeypatch, {Artifact(bundle.path)})
    fresh = collect(store, 1, 1)
    assert fresh.removed == ()
    done = collect(store, 1, 1, now=time.time() + WEEKS_LATER)
    assert [removal.kind for removal in done.removed] == ["replaced"]
    [kept] = (tmp_path / "replaced").glob("*/*/*/data.bin")
    assert kept.read_text() == "released"
    assert {artifact.key for artifact in store.artifacts("split")} == {"old", "new"}, "what it was made from stays too"
    referencing(monkeypatch, set())
    collect(store, 1, 1, now=time.time() + WEEKS_LATER)
    assert not list((tmp_path / "replaced").iterdir())


@pytest.mark.parametrize(("stage", "key"), [("export", "b"), ("train", "k")])
def test_no_artifact_is_removed_while_a_manifest_behind_a_release_cannot_be_read(
    tmp_path, monkeypatch, caplog, stage, key
):
    store = Store(tmp_path)
    for number in range(2):
        add(store, "split", f"s{number}", {})
    add(store, "train", "k", {"split": "s0"})
    bundle = add(store, "export", "b", {"train": "k"})
    referencing(monkeypatch, {bundle})
    manifest = store.artifact(stage, key).path / "manifest.json"
    manifest.write_text("{")
    for room in ("tmp/train-k-1", "replaced/1/train/k"):
        (tmp_path / room).mkdir(parents=True)
    before = store.artifacts()
    for dry_run in (True, False):
        done = collect(store, 1, 1, dry_run=dry_run, now=time.time() + WEEKS_LATER)
        assert {removal.kind for removal in done.removed} <= {"draft", "work"}
    [told] = [record.message for record in caplog.records]
    assert str(manifest) in told and "restore" in told
    assert store.artifacts() == before and (tmp_path / "replaced/1/train/k").is_dir()
    assert not list((tmp_path / "tmp").iterdir()), "what no release can need still goes"


def test_an_unreadable_manifest_that_no_release_needs_is_no_trouble(tmp_path):
    store = Store(tmp_path)
    for number in range(2):
        add(store, "split", f"s{number}", {})
    broken = add(store, "train", "k", {"split": "s0"})
    (broken.path / "manifest.json").write_text("{")
    assert {removal.path.name for removal in collect(store, 1, 1).removed} == {"s0"}
    assert broken.path.is_dir()


def test_leftovers_of_dead_runs_go_but_fresh_checkpoints_stay(tmp_path):
    store = Store(tmp_path)
    for room in ("tmp/train-k-1", "work/train/k", "damaged/train-k-1", "replaced/train-k-2"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "checkpoint").write_text("data")
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "rows.parquet").write_text("rows")
    assert [removal.kind for removal in collect(store, 1, 1).removed] == ["draft"]
    later = collect(store, 1, 1, now=time.time() + WEEKS_LATER)
    assert [removal.kind for removal in later.removed] == ["work", "damaged", "replaced"]
    assert (tmp_path / "ledger" / "rows.parquet").is_file()


def test_an_empty_store_has_nothing_to_remove(tmp_path):
    assert collect(Store(tmp_path / "none"), 1, 1).removed == ()
