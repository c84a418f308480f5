"""The store: whole or absent, verified, leased."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from darec.artifacts.keys import content_hash
from darec.artifacts.store import Artifact, Store, file_records
from darec.common.errors import DarecError
from darec.common.files import read_bytes
from schemas.manifest import InputRecord, Manifest


def put(store: Store, stage: str = "s", key: str = "k", text: str = "hello") -> Artifact:
    with store.draft(stage, key) as draft:
        (draft / "table.txt").write_text(text)
        return store.commit(draft, manifest(draft, stage, key))


def manifest(draft: Path, stage: str, key: str) -> Manifest:
    return Manifest(
        stage=stage, key=key, why=("never run",), material={}, inputs={}, files=file_records(draft), rows=1, report={},
        created=datetime.now(UTC), seconds=0.0, peak_memory_mb=0.0, code="", versions={},
    )  # fmt: skip


def test_what_was_put_is_found_and_verified(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    found = store.find("s", "k", checksums=True)
    assert found is not None and (found.path / "table.txt").read_text() == "hello"
    assert store.find("s", "other") is None


def test_a_failed_draft_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.draft("s", "k") as draft:
        (draft / "half").write_text("x")
        raise RuntimeError
    assert store.find("s", "k") is None
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_text("hell"), "bytes"),
        (lambda path: path.write_text("jello"), "checksum"),
    ],
)
def test_a_damaged_artifact_is_set_aside(tmp_path: Path, harm, word: str) -> None:
    store = Store(tmp_path)
    artifact = put(store)
    harm(artifact.path / "table.txt")
    assert word in (Artifact(artifact.path).damage(checksums=True) or "")
    assert store.find("s", "k", checksums=True) is None
    put(store)
    assert store.find("s", "k", checksums=True) is not None
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_broken_manifest_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = put(store)
    (artifact.path / "manifest.json").write_text("{")
    with pytest.raises(DarecError, match="manifest"):
        _ = Artifact(artifact.path).manifest
    assert store.find("s", "k") is None


def test_latest_is_the_newest_whole_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, key in enumerate(["old", "new"]):
        os.utime(put(store, key=key).path / "manifest.json", (number, number))
    assert [artifact.key for artifact in store.artifacts("s")] == ["new", "old"]
    (store.artifact("s", "new").path / "table.txt").unlink()
    latest = store.latest("s")
    assert latest is not None and latest.key == "old"


def test_replacing_keeps_open_readers_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store, text="one")
    with (first.path / "table.txt").open() as reader:
        put(store, text="two")
        assert reader.read() == "one"
    assert (first.path / "table.txt").read_text() == "two"


def record_of(artifact: Artifact) -> InputRecord:
    files = ("table.txt",)
    return InputRecord(key=artifact.key, content=content_hash(artifact.hashes, files), files=files)


def test_a_replaced_artifact_is_kept_and_found_by_what_was_read_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    records = {text: record_of(put(store, text=text)) for text in ("one", "two", "three")}
    assert store.input("s", records["three"]) == store.artifact("s", "k")
    for text in ("one", "two"):
        found = store.input("s", records[text])
        assert (found.path / "table.txt").read_text() == text
        assert (found.stage, found.key, found.damage(checksums=True)) == ("s", "k", None)
    assert [artifact.path for artifact in store.artifacts()] == [store.artifact("s", "k").path]


def test_what_is_committed_tells_its_own_hashes_and_not_those_of_the_one_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = dict(put(store, text="one").hashes)
    after = put(store, text="two")
    assert after.hashes == Artifact(after.path).hashes != before


def test_an_input_that_nobody_kept_is_the_one_at_its_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = record_of(put(store, text="one"))
    second = put(store, text="two")
    shutil.rmtree(tmp_path / "replaced")
    assert store.input("s", record) == second and not second.matches(record)
    assert store.input("s", record.model_copy(update={"key": "never"})) == store.artifact("s", "never")
    assert store.input("s", InputRecord(key="k", content="", files=())) == second


def test_an_input_is_found_past_an_artifact_that_cannot_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = record_of(put(store, text="one"))
    broken = put(store, text="two")
    (broken.path / "manifest.json").write_text("{")
    assert (store.input("s", record).path / "table.txt").read_text() == "one"
    (store.input("s", record).path / "manifest.json").unlink()
    assert store.input("s", record) == broken


def test_the_same_bytes_again_leave_the_artifact_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    inode = (put(store).path / "table.txt").stat().st_ino
    assert (put(store).path / "table.txt").stat().st_ino == inode


def _hold(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with Store(root).lease("job"):
        ready.set()
        time.sleep(600)


@pytest.mark.timeout(120)  # the lease would be waited for without end
def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(90)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Store(tmp_path).lease("job"):
        assert not holder.is_alive()


def test_the_newest_artifact_is_found_without_reading_the_others(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr("darec.artifacts.store.flush", lambda path: None)  # no power is cut here
    for number in range(60):
        put(store, key=f"k{number}")
    read = []

    def counted(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr("darec.artifacts.store.read_bytes", counted)
    assert len(store.artifacts()) == 60 and read == []
    latest = store.latest("s")
    assert latest is not None and latest.key == "k59"
    assert len(read) == 1


AS_NOBODY = """
import os, sys
from pathlib import Path
from darec.artifacts.store import Store

if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
try:
    Store(Path(sys.argv[1]))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_the_store_of_another_user_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # others may not enter the folders above tmp_path
        Path(folder).chmod(0o755)
        root = Path(folder, "store")
        root.mkdir(mode=0o700)
        command = [sys.executable, "-c", AS_NOBODY, str(root)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("UserError: the folder of the store cannot be read") and str(root) in said
    assert "chown -R 65534" in said and "shared.json" not in said
