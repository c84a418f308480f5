"""What does not belong in a store, or belongs there and is broken, is named once and blocks nothing else."""

import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from darec.artifacts.store import Store
from darec.common import warnings
from darec.common.errors import DarecError, TransientError, UserError
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from darec.serving.retention import collect
from darec.serving.warmstart import current_model
from tests.release_samples import GATE, contents, export

GOOD, WORSE = {"recall@20": 0.3, "ndcg@20": 0.2}, {"recall@20": 0.2, "ndcg@20": 0.2}


@pytest.fixture(autouse=True)
def each_test_is_told_anew():
    warnings._log_once.cache_clear()


@pytest.fixture
def store(tmp_path):
    """Three releases, the last of them current."""
    store = Store(tmp_path / "store")
    for seed in range(3):
        publish(store, seed)
    return store


def publish(store, seed, metrics=None, gate=GATE):
    return Releases(store.root).publish(export(store, contents(seed=seed), metrics or GOOD).path, gate)


def newer_record(path):
    record = json.loads(next(path.parent.glob("*.json")).read_text())
    path.write_text(json.dumps(record | {"id": path.stem, "invented_later": 1}))


def loop(path):
    path.symlink_to(path.name)


def deep_link(path):
    for depth in range(60):
        (path.parent.parent.parent / f"link{depth}").symlink_to(f"link{depth + 1}")
    path.symlink_to(path.parent.parent.parent / "link0")


FORMS = {
    "an empty file": lambda path: path.write_text(""),
    "a file cut short": lambda path: path.write_text('{"id": "2026-'),
    "binary rubbish": lambda path: path.write_bytes(bytes(range(256))),
    "a record of a newer version": newer_record,
    "a copy of another's record": lambda path: shutil.copy(next(path.parent.glob("2*.json")), path),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": loop,
    "a chain of links": deep_link,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
}
NAMES = ("._a.json", ".DS_Store", "a.json", "a (1).json", "esc\x1b[2J.json", os.fsdecode(b"latin\xe9.json"))


@pytest.mark.parametrize("form", FORMS)
def test_a_strange_release_record_is_told_and_left_and_everything_else_works(store, caplog, form):
    path = store.root / "releases" / "a.json"
    FORMS[form](path)
    everything_works(store)
    assert len([r for r in caplog.records if str(path) in r.message]) == 1
    assert os.path.lexists(path)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_other_programs_among_the_records_are_left_alone(store, caplog, name):
    path = store.root / "releases" / name
    path.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    everything_works(store)
    assert len(caplog.records) == 1 and caplog.records[0].message.isprintable()
    assert path.exists()


@pytest.mark.parametrize("place", ["artifacts", "artifacts/export"])
@pytest.mark.parametrize("form", [form for form in FORMS if "record" not in form])
def test_a_strange_thing_among_the_artifacts_is_told_and_left_and_everything_else_works(store, caplog, form, place):
    path = store.root / place / ("notes.txt" if form != "a folder" else "my notes")
    FORMS[form](path)
    everything_works(store)
    assert len([r for r in caplog.records if str(path) in r.message]) == 1
    assert os.path.lexists(path)


@pytest.mark.parametrize("form", [form for form in FORMS if "record" not in form])
def test_an_artifact_whose_manifest_is_strange_blocks_no_other(store, caplog, form):
    path = store.root / "artifacts" / "export" / "0123456789abcdef0123" / "manifest.json"
    path.parent.mkdir()
    FORMS[form](path)
    assert [artifact.key for artifact in store.artifacts()][-3:]
    latest = store.latest("export")
    assert latest is not None and latest.path != path.parent
    everything_works(store)
    if "file" not in form and "rubbish" not in form:
        assert str(path.parent) in caplog.text and os.path.lexists(path)


def everything_works(store: Store) -> None:
    """Lists, publishes, refuses, rolls back, promotes, serves and collects twice, as if nothing were in the way."""
    releases = Releases(store.root)
    assert len(releases.all()) == 3
    newest = releases.current()
    assert newest == releases.all()[0]
    fourth = publish(store, 3)
    assert releases.current() == fourth
    assert publish(store, 4, WORSE).state == "refused"
    assert releases.rollback() == newest
    assert releases.promote(fourth.id).id == fourth.id
    assert recommend(Bundle.open(releases.serving()), "u3", 5).height == 5
    current_model(store.root)
    for _ in range(2):
        collect(store, releases=5, artifacts=1, dry_run=True)
        collect(store, releases=5, artifacts=1)
    assert len(releases.all()) == 5 and releases.trouble() is None
    for release in releases.all():
        assert (releases.folder(release) / "report.json").is_file() or release.state == "refused"


def test_gc_keeps_every_bundle_that_an_unreadable_record_may_be_about(store):
    releases = Releases(store.root)
    oldest, *_ = reversed(releases.all())
    record = store.root / "releases" / f"{oldest.id}.json"
    whole = record.read_text()
    record.write_text(whole[: len(whole) // 2])
    collect(store, releases=1, artifacts=1)
    assert releases.folder(oldest).is_dir()
    record.write_text(whole)
    newest = publish(store, 3, gate=GATE.model_copy(update={"best_of_nights": 0}))
    collect(store, releases=1, artifacts=1)
    kept = {releases.folder(newest), releases.folder(releases.get(str(newest.previous)))}
    assert {artifact.path for artifact in store.artifacts("export")} == kept, "once all can be read, the old ones go"


def other_store(root):
    other = Store(root.parent / "other")
    publish(other, 7)
    return other


BROKEN = {
    "dangling": (lambda root: "artifacts/export/gone", "does not exist"),
    "to itself": (lambda root: "current", "dangling"),
    "to a folder that is no bundle": (lambda root: "artifacts", "no readable record"),
    "to the store": (lambda root: ".", "no readable record"),
    "to another store": (lambda root: Releases(other_store(root).root).serving(), "outside this store"),
    "to a file": (lambda root: "/etc/passwd", "outside this store"),
}


def break_link(root: Path, target) -> None:
    (root / "current").unlink()
    (root / "current").symlink_to(target(root))


@pytest.mark.parametrize("how", BROKEN)
def test_a_link_that_leads_to_no_release_is_one_line_and_everything_repairs_it(store, caplog, how):
    target, message = BROKEN[how]
    releases = Releases(store.root)
    third, second, _ = releases.all()
    break_link(store.root, target)
    assert releases.current() is None and releases.current() is None
    assert [message in record.message and "darec rollback" in record.message for record in caplog.records] == [True]
    with pytest.raises(DarecError):
        Bundle.open(releases.serving())
    assert len(releases.all()) == 3
    collect(store, releases=1, artifacts=1)
    assert current_model(store.root) is None

    assert releases.promote(second.id).previous == third.id, "the last one in production, as far as the records tell"
    break_link(store.root, target)
    assert releases.rollback().id == second.id, "the last that was in production"
    assert releases.current().id == second.id

    break_link(store.root, target)
    assert publish(store, 5, WORSE).judged_against == second.id, "a broken link is no excuse for a worse model"
    assert publish(store, 6).judged_against == second.id
    assert releases.trouble() is None


def test_a_store_restored_without_its_link_is_repaired_by_the_run_that_made_the_release(store):
    releases = Releases(store.root)
    third = releases.all()[0]
    (store.root / "current").unlink()
    assert "no link" in str(releases.trouble())
    assert releases.settled(releases.folder(third), GATE) is None
    again = releases.publish(releases.folder(third), GATE)
    assert releases.current() == again
    assert [event.why for event in again.events][-1] == "production was repaired"
    assert again.previous == third.previous


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_a_current_that_is_no_link_is_moved_aside(store, occupied):
    releases = Releases(store.root)
    (store.root / "current").unlink()
    FORMS[f"a {occupied}" if occupied == "folder" else "an empty file"](store.root / "current")
    assert "not a symbolic link" in str(releases.trouble())
    second = releases.all()[1]
    assert releases.promote(second.id).id == second.id
    assert releases.current().id == second.id
    assert len(list(store.root.glob("current-*"))) == 1


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{"), lambda path: path.write_text("")])
def test_rollback_works_without_the_record_of_the_current_release_and_stays(store, harm):
    releases = Releases(store.root)
    third, second, first = releases.all()
    harm(store.root / "releases" / f"{third.id}.json")
    assert releases.rollback(why="emergency").id == second.id
    assert releases.current() == second
    assert "was rolled back" in str(releases.settled(releases.folder(third), GATE)), "the next run does not undo it"
    assert releases.rollback().id == first.id


def test_rollback_passes_over_bundles_that_are_damaged_or_gone_and_records_that_are_lost(store, caplog):
    releases = Releases(store.root)
    third, second, first = releases.all()
    shutil.rmtree(releases.folder(second))
    assert releases.rollback().id == first.id
    assert f"{second.id} is skipped" in caplog.text
    releases.promote(third.id)
    (store.root / "releases" / f"{second.id}.json").write_text("{")
    fourth = publish(store, 3)
    assert releases.rollback().id == third.id
    assert releases.rollback().id == first.id, "third's record names first, to which rollback had gone before"
    assert releases.get(fourth.id).state == "rolled_back"


def test_rollback_works_on_a_full_disk(tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode()}")
    try:
        store = Store(disk / "store")
        first, second = publish(store, 0), publish(store, 1)
        with (disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(bytes(4096))
        releases = Releases(store.root)
        assert releases.rollback().id == first.id
        assert releases.current() == first
        assert "disk is full" in caplog.text and "may be published again" in caplog.text
        assert releases.get(second.id) == second
        (disk / "ballast").unlink()
        assert releases.promote(second.id).id == second.id
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("room", ["leases", "releases", "tmp"])
def test_a_file_in_place_of_a_room_of_the_store_is_one_line(store, room):
    if (store.root / room).is_dir():
        shutil.rmtree(store.root / room)
    (store.root / room).write_text("")
    for act in (lambda: publish(store, 5), lambda: Releases(store.root).promote("2026-01-01T0000Z-12345678")):
        with pytest.raises(UserError) as caught:
            act()
        assert "report it" not in str(caught.value)
    assert isinstance(Releases(store.root).all(), list)


@pytest.mark.parametrize("lock", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/hostname")])
def test_a_strange_lock_file_neither_hangs_nor_is_written_through(store, lock):
    path = store.root / "leases" / "odd.lock"
    lock(path)
    before = Path("/etc/hostname").read_bytes()
    try:
        with store.lease("odd"):
            pass
    except UserError as error:
        assert str(path) in str(error)
    assert Path("/etc/hostname").read_bytes() == before


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/etc/passwd", "/etc/passwd/store", "loop/store"])
def test_a_path_where_no_store_can_be_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError, match="store"):
        store = Store(Path(path))
        with store.in_use():
            pass


def test_a_published_bundle_that_is_refused_later_stays_published(store):
    releases = Releases(store.root)
    third, second, first = releases.all()
    strict = GATE.model_copy(update={"minimums": {"recall@20": 0.9}})
    again = releases.publish(releases.folder(second), strict)
    assert again.state == "published" and not again.decision.passed
    assert [event.what for event in again.events] == ["published", "refused"]
    assert "was refused" in str(releases.settled(releases.folder(second), strict))
    assert releases.publish(releases.folder(second), strict) == again, "asked once"
    assert releases.current() == third
    assert {artifact.path for artifact in releases.referenced(keep=2)} == {
        releases.folder(r) for r in (first, second, third)
    }
    assert releases.rollback().id == second.id


def test_what_others_may_read_is_what_the_root_folder_allows(tmp_path):
    before = os.umask(0)
    try:
        private, shared = Store(tmp_path / "private"), Store(tmp_path / "shared")
        shared.root.mkdir(mode=0o2750)
        for store in (private, shared):
            publish(store, 0)
    finally:
        os.umask(before)
    assert private.root.stat().st_mode & 0o7777 == 0o700
    written = {
        store: [path for room in ("artifacts", "releases", "leases") for path in (store.root / room).rglob("*")]
        for store in (private, shared)
    }
    assert not [path for path in written[private] if path.is_file() and path.stat().st_mode & 0o077]
    assert not [path for path in written[shared] if path.is_file() and path.stat().st_mode & 0o027]
    assert all(path.stat().st_mode & 0o040 for path in written[shared] if "artifacts" in path.parts)


def as_nobody(act) -> None:
    """Calls `act`, which must use no table, in a forked process that is not allowed everything, as root is."""

    def child() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        act()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode == 0


@pytest.fixture
def nobodys_store():
    """Three releases in a folder that user 65534 owns and reaches."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        for seed in range(3):
            publish(store, seed)
        if os.geteuid() == 0:
            for path in (Path(folder), *Path(folder).rglob("*")):
                os.lchown(path, 65534, 65534)
        yield store


def test_a_record_that_may_not_be_read_blocks_no_other(nobodys_store):
    releases = Releases(nobodys_store.root)
    newest, middle, oldest = releases.all()
    (nobodys_store.root / "releases" / f"{oldest.id}.json").chmod(0)

    def act() -> None:
        assert Releases(nobodys_store.root).all() == [newest, middle]
        assert Releases(nobodys_store.root).current() == newest
        collect(nobodys_store, releases=1, artifacts=1)
        assert releases.rollback().id == middle.id
        assert releases.promote(newest.id).id == newest.id
        assert releases.publish(releases.folder(newest), GATE).id == newest.id

    as_nobody(act)
    assert releases.folder(oldest).is_dir(), "gc cannot know that nothing needs it"


@pytest.mark.parametrize("name", ["users.parquet", "manifest.json"])
def test_a_file_that_cannot_be_read_now_is_a_transient_error_and_nothing_is_set_aside(nobodys_store, name):
    releases = Releases(nobodys_store.root)
    third, second, _ = releases.all()
    bundle = releases.folder(third)
    (bundle / name).chmod(0)

    def act() -> None:
        with pytest.raises(TransientError, match="cannot be read now"):
            nobodys_store.find("export", bundle.name, checksums=True)
        with pytest.raises(TransientError, match="cannot be read now"):
            Bundle.open(releases.serving())
        assert nobodys_store.latest("export") is not None
        assert releases.rollback().id == second.id

    as_nobody(act)
    assert bundle.is_dir() and not (nobodys_store.root / "damaged").exists()
