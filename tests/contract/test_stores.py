"""What every store keeps to, whether it is a folder or one in an object store that several machines share.

`another()` is another process on a folder, and another machine, with a cache of its own, on a shared store.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event

import polars as pl
import pytest

from darec.artifacts import leases
from darec.artifacts.ledger import Ledger, row_key
from darec.artifacts.shared import clock_difference
from darec.artifacts.store import Artifact, Store, file_records
from darec.common.errors import DarecError, TransientError
from darec.common.objects import Objects
from darec.serving.forgetting import forget
from darec.serving.records import CurrentLink
from darec.serving.releases import LEASE, Releases
from darec.serving.retention import alone, collect
from pipelines.doctor import examine_shared
from schemas.manifest import InputRecord, Manifest
from schemas.tables import PROFILE_ROWS
from tests.buckets import S3, configured
from tests.processes import wait_for
from tests.release_samples import GATE, contents, export

Opens = Callable[[], Store]


@pytest.fixture(scope="module")
def server():
    with S3().served() as server, configured(server):
        yield server


@pytest.fixture(params=["folder", "s3"])
def another(request, server, tmp_path, monkeypatch) -> Opens:
    if request.param == "folder":
        return lambda: Store(tmp_path / "store")
    return machines(server.new_bucket(), tmp_path, monkeypatch)


@pytest.fixture
def machine(server, tmp_path, monkeypatch) -> Opens:
    """Opens a shared store, each time on another machine."""
    return machines(server.new_bucket(), tmp_path, monkeypatch)


def machines(url, folder, monkeypatch) -> Opens:
    monkeypatch.setenv("DAREC_LEASE_SECONDS", "8")  # of the living: on a busy machine a thread waits for its turn
    monkeypatch.setattr(leases, "_LOOK", 0.05)
    count = iter(range(100))

    def opened() -> Store:
        monkeypatch.setenv("DAREC_CACHE", str(folder / f"machine-{next(count)}"))
        return Store(url)

    return opened


def put(store: Store, key: str = "k", text: str = "hello", stage: str = "s", inputs=None) -> Artifact:
    with store.lease(f"{stage}-{key}"), store.draft(stage, key) as draft:
        (draft / "table.txt").write_text(text)
        (draft / "other.txt").write_text("x" * 100)
        manifest = Manifest(
            stage=stage, key=key, why=("never run",), material={}, inputs=inputs or {}, files=file_records(draft),
            rows=1, report={}, created=datetime.now(UTC), seconds=0.0, peak_memory_mb=0.0, code="", versions={},
        )  # fmt: skip
        return store.commit(draft, manifest)


def test_what_one_makes_others_find_whole(another):
    put(another())
    found = another().find("s", "k", checksums=True)
    assert found is not None
    assert found.file("table.txt").read_text() == "hello"


def test_a_draft_that_failed_is_nothing(another):
    with pytest.raises(RuntimeError), another().draft("s", "k") as draft:
        (draft / "table.txt").write_text("half")
        raise RuntimeError
    assert another().find("s", "k") is None
    assert another().artifacts() == []


def test_artifacts_come_newest_first_whoever_made_them(another):
    for key in ("first", "second", "third"):
        put(another(), key)
    assert [artifact.key for artifact in another().artifacts("s")] == ["third", "second", "first"]
    assert another().latest("s").key == "third"


def test_equal_bytes_change_nothing_and_other_bytes_keep_those_before(another):
    first = put(another())
    before = InputRecord(key="k", content=content(first), files=("table.txt",))
    put(another())
    assert not list(another().root.glob("replaced/*"))

    put(another(), text="jello")
    store = another()
    assert store.find("s", "k").file("table.txt").read_text() == "jello"
    assert store.input("s", before).file("table.txt").read_text() == "hello"


def test_one_at_a_time_holds_a_lease_and_a_dead_one_nobody(another):
    order, begun = [], Event()
    stores = another(), another()

    def hold(store: Store, name: str) -> None:
        with store.lease("stage"):
            order.append(f"{name} in")
            begun.set()
            time.sleep(0.1)
            order.append(f"{name} out")

    with ThreadPoolExecutor() as pool:
        first = pool.submit(hold, stores[0], "a")
        begun.wait()
        pool.submit(hold, stores[1], "b").result()
        first.result()
    assert order == ["a in", "a out", "b in", "b out"]


def test_who_waits_for_another_process_says_so(another, monkeypatch, caplog):
    monkeypatch.setattr(leases, "MOMENT", 0.0)
    holder, waiting = another(), another()
    with ThreadPoolExecutor() as pool, holder.lease(f"train-{'0a' * 10}"):
        later = pool.submit(lambda: put(waiting, "0a" * 10, stage="train"))
        assert wait_for(lambda: "is at work" in caplog.text)
        assert not later.done()
        assert caplog.messages[0].startswith(("train: another process is at work", "train: process "))


def test_nobody_is_alone_beside_a_run_and_no_run_begins_beside_gc(another):
    run, other = another(), another()
    with run.in_use(), run.in_use(), pytest.raises(TransientError, match="a run is active"), alone(other):
        pass

    order = []
    with ThreadPoolExecutor() as pool:
        with alone(other):
            waiting = pool.submit(begin, run, order)
            time.sleep(0.3)
            order.append("gc")
        waiting.result()
    assert order == ["gc", "run"]


def begin(store: Store, order: list[str]) -> None:
    with store.in_use():
        order.append("run")


def test_rows_that_one_keeps_no_other_makes_again(another):
    keys = pl.Series("key", [row_key(b"%d" % row) for row in range(6)])
    store, other = another(), another()
    first = ledger(store)
    append(store, rows(keys[:3], "first"))
    append(other, rows(keys[2:4], "second"))
    assert first.missing(keys, repair=True).to_list() == keys[4:].to_list()
    assert ledger(another()).get(keys[:2], ["text"])["text"].to_list() == ["first", "first"]

    append(store, rows(keys[:1], "better"), replace=True)
    assert ledger(another()).rows(keys[:1], ["text"])["text"].to_list() == ["better"]


def test_the_pointer_is_seen_by_all_and_the_history_is_one(another):
    first = export(store := another(), contents(seed=1))
    one = Releases(store.root).publish(first.path, GATE)
    second = export(store := another(), contents(seed=2))
    two = Releases(store.root).publish(second.path, GATE)

    book = Releases(another().root)
    assert [release.id for release in book.all()] == [two.id, one.id]
    assert book.current().id == two.id
    assert two.previous == one.id

    Releases(another().root).rollback()
    book = Releases(another().root)
    assert book.current().id == one.id
    assert book.get(two.id).state == "rolled_back"


def test_of_two_who_publish_at_once_the_pointer_is_one_and_the_history_has_both(another):
    stores = another(), another()
    bundles = [export(store, contents(seed=seed)) for seed, store in enumerate(stores)]

    with ThreadPoolExecutor() as pool:
        made = list(
            pool.map(lambda pair: Releases(pair[0].root).publish(pair[1].path, GATE), zip(stores, bundles, strict=True))
        )

    book = Releases(another().root)
    assert {release.id for release in book.all()} == {release.id for release in made}
    last = book.current()
    assert last.previous in {release.id for release in made} - {last.id}


def test_gc_removes_what_nobody_needs_for_all(another):
    source = put(another(), "source")
    needed = InputRecord(key="source", content=content(source), files=("table.txt",))
    bundle = export(store := another(), contents(), inputs={"s": needed})
    Releases(store.root).publish(bundle.path, GATE)
    for key in ("old", "new"):
        put(another(), key)

    done = collect(another(), releases=1, artifacts=1)

    assert {removal.path.name for removal in done.removed if removal.kind == "artifact"} == {"old"}
    store = another()
    assert {artifact.key for artifact in store.artifacts()} == {"source", "new", bundle.key}
    assert all(artifact.damage(checksums=True) is None for artifact in store.artifacts())
    assert store.find("s", "source").file("table.txt").read_text() == "hello"


def test_gc_leaves_everything_while_a_run_is_under_way(another):
    run, other = another(), another()
    with run.in_use(), run.draft("s", "new"):
        put(run, "old")
        put(run, "newer")
        with pytest.raises(TransientError):
            collect(other, releases=1, artifacts=1)
    assert len(another().artifacts()) == 2


def test_a_person_is_forgotten_on_every_machine(another):
    store = another()
    release = Releases(store.root).publish(export(store, contents()).path, GATE)
    beside = another()
    receipt = forget(another(), "u3")
    assert ("copies of remote sources stay" in " ".join(receipt.left)) == (store.shared is not None)

    for store in (another(), beside):
        store.sync()
        book = Releases(store.root)
        assert book.current().id == release.id
        bundle = Artifact(book.serving().resolve())
        users = pl.read_parquet(bundle.file("users.parquet"))["user_id"]
        assert "u3" not in users.to_list() and users.null_count() == 1
        assert len(store.artifacts()) == 1


def content(artifact: Artifact) -> str:
    from darec.artifacts.keys import content_hash

    return content_hash(artifact.hashes, ["table.txt"])


def append(store: Store, table: pl.DataFrame, replace: bool = False) -> None:
    """As a stage does, which holds a lease."""
    with store.lease("profiles"):
        ledger(store).append(table, replace=replace)


def ledger(store: Store) -> Ledger:
    return Ledger(store.ledger / "profiles.sqlite", PROFILE_ROWS)


def rows(keys: pl.Series, text: str) -> pl.DataFrame:
    counts = {"prompt_tokens": 1, "output_tokens": 1, "cause": ""}
    return keys.to_frame().with_columns(pl.lit(text).alias("text"), *(pl.lit(v).alias(k) for k, v in counts.items()))


# Of shared stores alone


def test_only_what_is_wanted_is_downloaded(machine, server):
    artifact = put(machine(), text="y" * 1000)
    server.forget()
    store = machine()
    found = store.find("s", "k", checksums=True)
    assert sum(server.sent.values()) < 2000, "the manifest alone"
    found.file("table.txt")
    assert [path for path in server.sent if "other.txt" in path] == []
    assert any("table.txt" in path for path in server.sent)
    assert artifact.path.parts[-5:] != found.path.parts[-5:]

    server.forget()
    store.sync()
    store.find("s", "k", checksums=True).file("table.txt")
    assert not [path for path in server.sent if "table.txt" in path]


@pytest.mark.parametrize(("change", "found"), [(lambda text: text[:-1], "bytes"), (lambda text: b"J" + text[1:], "")])
def test_a_damaged_file_is_found_and_the_artifact_made_again(machine, change, found):
    made = put(machine())
    objects = made.shared.objects
    name = next(each.name for each in objects.list("files") if each.name.endswith("table.txt"))
    objects.put(name, change(objects.read(name)[0]))

    other = machine()
    if found:
        assert found in other.artifact("s", "k").damage()
    else:
        with pytest.raises(DarecError, match="does not have the checksum"):
            other.find("s", "k").file("table.txt")
        assert not (other.artifact("s", "k").path / "table.txt").exists()
    assert other.find("s", "k") is None

    put(other)
    assert machine().find("s", "k").file("table.txt").read_text() == "hello"


def test_a_file_damaged_in_the_cache_alone_is_downloaded_again(machine):
    made = put(store := machine())
    (made.path / "table.txt").write_text("jello")
    assert store.find("s", "k", checksums=True).file("table.txt").read_text() == "hello"


@pytest.mark.parametrize("name", ["versions.json", "shared.json"])
def test_a_damaged_cache_is_filled_again(machine, name):
    put(store := machine())
    (store.root / name).write_text("{")
    again = Store(store.shared.objects.url)
    assert again.find("s", "k").file("table.txt").read_text() == "hello"
    assert put(again, "other").key == "other"


def test_nothing_half_uploaded_is_taken_for_an_artifact_and_gc_clears_it_away(machine, server, monkeypatch):
    store = machine()

    def fail(path: str) -> None:
        if path.endswith("manifest.json"):
            raise KeyboardInterrupt

    monkeypatch.setattr("darec.artifacts.shared.Shared.commit", lambda *_: fail("manifest.json"))
    with pytest.raises(KeyboardInterrupt):
        put(store)
    monkeypatch.undo()
    monkeypatch.setenv("DAREC_CACHE", str(store.root.parent))

    assert store.shared.missing("s", "k", {}) is None
    assert len(list(store.shared.objects.list("files"))) == 2
    assert Store(store.shared.objects.url).find("s", "k") is None
    collect(store, releases=1, artifacts=1)
    assert list(store.shared.objects.list("files")) == []


def test_what_was_removed_elsewhere_leaves_the_cache(machine):
    first, second = machine(), machine()
    artifact = put(first)
    second.sync()
    second.remove(second.find("s", "k"))
    first.sync()
    assert not artifact.path.exists()
    assert first.artifacts() == []


def test_a_lease_that_nobody_renews_is_taken_over_and_one_that_is_renewed_is_not(machine, monkeypatch):
    dead, alive = machine(), machine()
    dead.shared.objects.create("leases/stage.json", b'{"holder": "process 1 on far", "seconds": 0.5}')
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        with alive.lease("stage"):
            assert time.monotonic() - began > 0.5
            before = alive.shared.objects.read("leases/stage.json")
            waiting = pool.submit(take, machine())
            assert wait_for(lambda: alive.shared.objects.read("leases/stage.json") != before)
            assert not waiting.done()
        waiting.result()


def take(store: Store) -> None:
    with store.lease("stage"):
        pass


def test_a_write_over_what_another_machine_changed_is_refused(machine):
    first, second = machine(), machine()
    CurrentLink(first).point_to("artifacts/s/a")
    with pytest.raises(TransientError, match="another machine changed"):
        CurrentLink(second).point_to("artifacts/s/b")
    second.sync()
    CurrentLink(second).point_to("artifacts/s/b")
    first.sync()
    assert str(CurrentLink(first).path.readlink()) == "artifacts/s/b"


def test_a_machine_whose_work_another_took_over_does_not_write_over_it(machine):
    first, second = machine(), machine()
    with first.draft("s", "k") as draft:
        (draft / "table.txt").write_text("late")
        put(second, text="jello")
        manifest = second.artifact("s", "k").manifest.model_copy(update={"files": file_records(draft)})
        with pytest.raises(TransientError, match="another machine changed"):
            first.commit(draft, manifest)
    first.sync()
    assert first.find("s", "k").file("table.txt").read_text() == "jello"


def test_a_run_that_died_does_not_keep_gc_away(machine):
    store = machine()
    store.shared.objects.create("leases/present/dead.json", b'{"holder": "process 1 on far", "seconds": 0.5}')
    put(store)
    collect(store, releases=1, artifacts=1)
    assert list(store.shared.objects.list("leases/present")) == []


def test_rows_that_were_forgotten_leave_the_ledgers_of_all_machines(machine):
    keys = pl.Series("key", [row_key(b"%d" % row) for row in range(3)])
    first, second = machine(), machine()
    append(first, rows(keys[:2], "a person"))
    append(first, rows(keys[2:], "an item"))
    assert ledger(second).missing(keys).is_empty()

    assert ledger(first).forget("text", ["a person"]) == 2
    assert ledger(second).missing(keys).to_list() == keys[:2].to_list()
    assert b"a person" not in (second.ledger / "profiles.sqlite").read_bytes()
    assert ledger(machine()).missing(keys).to_list() == keys[:2].to_list()


def test_rows_of_a_second_are_one_segment_and_are_sent_without_waiting_for_the_end(machine):
    store, other = machine(), machine()
    keys, book = pl.Series("key", [row_key(b"%d" % row) for row in range(20)]), ledger(store)
    began = time.monotonic()
    for row in range(20):
        book.append(rows(keys[row : row + 1], "text"))
    seconds = time.monotonic() - began
    assert wait_for(lambda: ledger(other).missing(keys).is_empty())
    assert len(list(store.shared.objects.list("ledger"))) <= 4 + seconds


def test_rows_survive_a_network_that_is_away(machine, server, monkeypatch):
    keys = pl.Series("key", [row_key(b"1")])
    store, book = machine(), None
    book = ledger(store)
    book.append(rows(keys, "before"))

    def away(*_: object) -> None:
        raise TransientError("no network")

    more = pl.Series("key", [row_key(b"2")])
    with monkeypatch.context() as patch:
        patch.setattr(store.shared.objects, "put", away)
        book.append(rows(more, "meanwhile"))
        assert len(ledger(machine()).missing(more)) == 1
    ledger(store).get(keys)  # the next process sends it
    assert ledger(machine()).rows(more, ["text"])["text"].to_list() == ["meanwhile"]


def test_checkpoints_go_to_another_machine_and_away_when_the_work_is_done(machine):
    first, second = machine(), machine()
    folder = first.work("train", "k")
    with pytest.raises(RuntimeError), first.carrying("train", "k"):
        (folder / "checkpoint.safetensors").write_bytes(b"epoch 7")
        raise RuntimeError

    with second.carrying("train", "k"):
        assert (second.work("train", "k") / "checkpoint.safetensors").read_bytes() == b"epoch 7"
    assert list(second.shared.objects.list("work")) == []


def test_a_server_without_conditional_writes_is_refused(machine, server, monkeypatch):
    monkeypatch.setattr(server, "unconditional", True)
    with pytest.raises(DarecError, match="does not support conditional writes") as refused:
        machine()
    assert "MinIO" in refused.value.hint


def test_doctor_says_of_a_shared_store_what_is_wrong_with_it(server, monkeypatch):
    url = server.new_bucket()
    found = [(each.what, each.level) for each in examine_shared(url)]
    assert found == [("shared store", "ok"), ("conditional writes", "ok"), ("clock", "ok")]
    assert list(Objects(url).list("")) == []  # nothing of the examination stays

    monkeypatch.setattr(server, "unconditional", True)
    *_, last = examine_shared(url)
    assert (last.what, last.level) == ("conditional writes", "missing") and "MinIO" in last.hint

    monkeypatch.setattr(server, "refuses", True)
    (only,) = examine_shared(url)
    assert (only.what, only.level) == ("shared store", "missing") and "AWS_ACCESS_KEY_ID" in only.hint
    assert examine_shared("data/store") == []


def test_a_clock_that_differs_from_the_servers_is_measured(server, monkeypatch):
    objects = Objects(server.new_bucket())
    listed = Objects.list

    def late(self, prefix):
        for each in listed(self, prefix):
            yield replace(each, modified=each.modified - timedelta(hours=1))

    monkeypatch.setattr(Objects, "list", late)
    assert clock_difference(objects).total_seconds() == pytest.approx(-3600, abs=60)


def test_checkpoints_and_half_uploads_of_a_person_are_deleted(machine):
    store = machine()
    Releases(store.root).publish(export(store, contents()).path, GATE)
    for name in ("work/train/k/checkpoint.safetensors", "damaged/s/k/0/x", "files/s/k/0/x"):
        store.shared.objects.put(name, b"a person")
    forget(store, "u3")
    names = [each.name for each in store.shared.objects.list("")]
    assert not [name for name in names if name.startswith(("work", "damaged", "files/s"))]


def test_other_addresses_are_refused():
    with pytest.raises(DarecError, match="a folder or in S3"):
        Store("gs://bucket/folder")


def test_the_lease_of_releases_stays_when_gc_clears_leases_away(machine):
    put(machine())
    collect(store := machine(), releases=1, artifacts=1)
    left = {each.name for each in store.shared.objects.list("leases")}
    assert left == {f"leases/{LEASE}.json", "leases/alone.json"}
