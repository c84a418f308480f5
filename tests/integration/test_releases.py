"""Releases on a real store, real bundles, real processes."""

import itertools
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from darec.artifacts.keys import content_hash
from darec.artifacts.store import Artifact, Store, file_records
from darec.common.errors import DarecError, UserError
from darec.serving import evidence
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from schemas.manifest import InputRecord
from tests.release_samples import GATE, contents, export, flip_byte

FORK = multiprocessing.get_context("fork")
GOOD = {"recall@20": 0.3, "ndcg@20": 0.2}
WORSE = {"recall@20": 0.2, "ndcg@20": 0.2}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def releases(store):
    return Releases(store.root)


def publish(store, seed=0, metrics=None, gate=GATE, settings=None):
    bundle = export(store, contents(seed=seed), metrics or GOOD, settings=settings)
    return Releases(store.root).publish(bundle.path, gate)


def test_the_first_good_bundle_becomes_current(store, releases):
    assert releases.current() is None
    release = publish(store)
    assert release.state == "published"
    assert releases.current() == release
    assert (store.root / "current").resolve() == releases.folder(release)
    assert not (store.root / "current").readlink().is_absolute(), "a store that is moved must stay whole"
    assert len(recommend(Bundle.open(store.root / "current"), "u0", 3)) == 3


def test_the_same_bundle_again_changes_nothing(store, releases):
    first = publish(store)
    bundle = releases.folder(first)
    assert "current already" in str(releases.settled(bundle, GATE))
    assert releases.publish(bundle, GATE) == first
    assert len(releases.all()) == 1


def test_a_worse_bundle_is_refused_and_stays_so_until_the_gate_or_the_current_release_changes(store, releases):
    first, second = publish(store), publish(store, seed=1, metrics=WORSE)
    assert (second.state, releases.current()) == ("refused", first)
    assert "recall@20" in second.decision.reason
    bundle = releases.folder(second)
    assert "was refused" in str(releases.settled(bundle, GATE))
    assert len(releases.publish(bundle, GATE).events) == 1
    lenient = GATE.model_copy(update={"tolerances": {"recall@20": 0.5}})
    assert releases.settled(bundle, lenient) is None
    assert releases.publish(bundle, lenient).state == "published"
    assert releases.current().id == second.id
    assert [event.what for event in releases.current().events] == ["refused", "published"]


def test_a_refused_release_can_be_promoted_by_hand(store, releases):
    first, second = publish(store), publish(store, seed=1, metrics=WORSE)
    promoted = releases.promote(second.id, who="ann", why="the drop is seasonal")
    assert releases.current() == promoted
    assert (promoted.state, promoted.previous) == ("published", first.id)
    assert (promoted.events[-1].who, promoted.events[-1].why) == ("ann", "the drop is seasonal")


def test_rollback_goes_to_the_release_before_and_the_next_run_does_not_undo_it(store, releases):
    first, second = publish(store), publish(store, seed=1)
    assert releases.rollback().id == first.id
    assert releases.current() == first
    bundle = releases.folder(second)
    assert "was rolled back" in str(releases.settled(bundle, GATE))
    assert releases.publish(bundle, GATE).state == "rolled_back"
    assert releases.current() == first
    assert releases.promote(second.id[-8:]).id == second.id
    assert releases.current().id == second.id


def test_the_same_bytes_under_another_key_are_the_same_release(store, releases):
    publish(store)
    second = publish(store, seed=1)
    releases.rollback()
    twin = export(store, contents(seed=1), GOOD, settings={"renamed": True})
    assert twin.path != releases.folder(second)
    assert "was rolled back" in str(releases.settled(twin.path, GATE))


def test_rollback_walks_back_and_stops_at_the_first(store, releases):
    with pytest.raises(UserError, match="no release to roll back"):
        releases.rollback()
    ids = [publish(store, seed=seed).id for seed in range(3)]
    assert releases.rollback().id == ids[1]
    assert releases.rollback().id == ids[0]
    with pytest.raises(UserError, match="first release"):
        releases.rollback()
    assert releases.current().id == ids[0]


def test_rollback_never_returns_to_what_was_rolled_back(store, releases):
    first, second = publish(store), publish(store, seed=1)
    releases.rollback()
    releases.promote(second.id)
    releases.promote(first.id)
    assert releases.rollback().id == second.id
    with pytest.raises(UserError, match="rolled back too"):
        releases.rollback()


def test_unknown_and_ambiguous_ids_are_the_users_error(store, releases):
    publish(store), publish(store, seed=1)
    cases = {"2001-01-01": "no release", "": "no release", "2": "at least 8 characters", "20\x1b[2J": "no release"}
    cases[releases.all()[0].id[:10]] = "more than one"
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            releases.promote(name)


@pytest.mark.parametrize("act", ["publish", "promote", "rollback"])
@pytest.mark.parametrize("file", ["items.faiss", "users.parquet", "report.json"])
def test_a_damaged_bundle_never_becomes_current(store, releases, act, file):
    first, second = publish(store), publish(store, seed=1)
    third = export(store, contents(seed=2), GOOD)
    victim = {"publish": third.path, "promote": releases.folder(first), "rollback": releases.folder(first)}[act]
    flip_byte(victim / file)
    doing = {
        "publish": lambda: releases.publish(third.path, GATE),
        "promote": lambda: releases.promote(first.id),
        "rollback": releases.rollback,
    }
    with pytest.raises(DarecError, match=f"damaged: {file}"):
        doing[act]()
    assert releases.current() == second


def test_a_removed_bundle_cannot_be_promoted_but_is_still_listed_and_compared(store, releases):
    first, second = publish(store), publish(store, seed=1)
    store.remove(export(store, contents(seed=0), GOOD))
    with pytest.raises(UserError, match="was removed"):
        releases.promote(first.id)
    assert [release.id for release in releases.all()] == [second.id, first.id]
    assert releases.diff(first.id, second.id).sizes["users"] == (30, 30)


def test_a_bundle_outside_the_store_is_refused(store, releases, tmp_path_factory):
    elsewhere = export(Store(tmp_path_factory.mktemp("other")))
    with pytest.raises(DarecError, match="not in this store"):
        releases.publish(elsewhere.path, GATE)
    assert releases.current() is None


def test_diff_names_metrics_sizes_and_configuration(store, releases):
    first = publish(store, metrics=GOOD, settings={"dim": 32})
    second = export(store, contents(users=31, seed=1), {**WORSE, "hit@5": 0.5}, settings={"dim": 64})
    second = releases.publish(second.path, GATE)
    diff = releases.diff(first.id, second.id)
    assert diff.metrics == {"recall@20": (0.3, 0.2), "ndcg@20": (0.2, 0.2), "hit@5": (None, 0.5)}
    assert diff.sizes["users"] == (30, 31)
    assert diff.config == ["export.config.export.dim: 32 -> 64"]


def test_gc_is_told_of_the_current_one_the_one_before_and_the_newest(store, releases):
    assert releases.referenced(keep=2) == set()
    made = [publish(store, seed=seed) for seed in range(5)]
    releases.promote(made[0].id)
    kept = {artifact.path for artifact in releases.referenced(keep=1)}
    assert kept == {releases.folder(made[0]), releases.folder(made[4])}
    releases.promote(made[1].id)
    kept = {artifact.path for artifact in releases.referenced(keep=2)}
    assert kept == {releases.folder(made[i]) for i in (0, 1, 3, 4)}


def test_a_record_from_before_releases_were_counted_is_an_older_one(store, releases):
    old, new = publish(store, seed=0), publish(store, seed=1)
    path = store.root / "releases" / f"{old.id}.json"
    record = json.loads(path.read_text())
    del record["number"]
    record["events"][0]["at"] = "2999-01-01T00:00:00Z"
    path.write_text(json.dumps(record))
    newest = publish(store, seed=2)
    assert [release.id for release in releases.all()] == [newest.id, new.id, old.id]


def test_refused_nights_drive_no_good_bundle_out_of_gcs_list(store, releases):
    good = [publish(store, seed=seed) for seed in range(4)]
    refused = [publish(store, seed=seed, metrics=WORSE) for seed in range(4, 10)]
    assert {release.state for release in refused} == {"refused"}
    assert good[3] == releases.current()
    assert {artifact.path for artifact in releases.referenced(keep=2)} == {releases.folder(r) for r in good[1:]}
    releases.promote(refused[0].id)
    kept = {artifact.path for artifact in releases.referenced(keep=2)}
    assert kept == {releases.folder(r) for r in (refused[0], good[3], good[2])}


def test_diff_tells_of_what_a_release_was_made_from_and_not_of_what_took_its_key(store, releases):
    first, second = publish(store), publish(store, seed=1)
    manifest = Artifact(releases.folder(first)).manifest

    def train(rate):
        with store.draft("train", "k") as draft:
            (draft / "model").write_text(f"trained at {rate}")
            facts = {"stage": "train", "key": "k", "files": file_records(draft)}
            material = {"version": 1, "config": {"rate": rate}, "extra": {}}
            return store.commit(draft, manifest.model_copy(update=facts | {"fingerprint": material}))

    record = InputRecord(key="k", content=content_hash(train(1).hashes, ["model"]), files=("model",))
    made_from = manifest.model_copy(update={"inputs": {"train": record}})
    (releases.folder(first) / "manifest.json").write_text(made_from.model_dump_json())
    train(2)
    [line] = releases.diff(first.id, second.id).config
    assert '"rate":1' in line


def test_a_consumer_of_the_old_release_reads_on_while_a_new_one_is_published(store):
    publish(store)
    held = Bundle.open(store.root / "current")
    before = recommend(held, "u3", 10)
    publish(store, seed=1)
    assert recommend(held, "u3", 10).equals(before)
    assert not recommend(Bundle.open(store.root / "current"), "u3", 10).equals(before)


@pytest.mark.parametrize("field", ["artifact", "id"])
def test_a_record_that_leads_outside_the_store_is_left_out(store, releases, field, caplog):
    path = store.root / "releases" / f"{publish(store).id}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {field: f"../{store.root.name}-other/{record[field]}"}))
    with pytest.raises(UserError, match="names no release"):
        releases.promote(record["id"])
    assert "record cannot be read" in caplog.text


def test_a_link_without_record_says_so_and_promote_mends_it(store, releases):
    first, second = publish(store), publish(store, seed=1)
    (store.root / "releases" / f"{second.id}.json").unlink()
    assert releases.current() is None
    assert "has no readable record" in str(releases.trouble())
    assert releases.promote(first.id).id == first.id
    assert releases.current().id == first.id
    assert releases.trouble() is None


def _publish_and_roll_back(root: Path, bundles: list[Path], begun: Any) -> None:
    releases = Releases(root)
    begun.set()
    for turn in itertools.count():
        releases.publish(bundles[turn % len(bundles)], GATE)
        if turn % 3 == 2:
            releases.rollback()
        for release in releases.all():
            if release.state == "rolled_back":
                releases.promote(release.id)


def _publish_each(root: Path, bundles: list[Path]) -> None:
    for bundle in bundles:
        Releases(root).publish(bundle, GATE)


def test_kill_9_at_any_moment_leaves_a_whole_release_in_production(store, releases):
    bundles = [export(store, contents(seed=seed), GOOD).path for seed in range(4)]
    began = time.monotonic()
    releases.publish(bundles[0], GATE)
    seconds = time.monotonic() - began  # on any disk, some of the processes get to the end of a change
    moments = random.Random(0)
    seen = set()
    for _ in range(40):
        begun = FORK.Event()
        process = FORK.Process(target=_publish_and_roll_back, args=(store.root, bundles, begun))
        process.start()
        begun.wait()
        deadline = time.monotonic() + moments.uniform(0, max(0.15, 2 * seconds))
        while time.monotonic() < deadline:  # a reader never meets a moment without a release
            assert (store.root / "current" / "report.json").is_file()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it must have been at work until then"
        current = Releases(store.root).current()
        assert current is not None
        seen.add(current.id)
        Bundle.open(store.root / "current")
        for record in (store.root / "releases").glob("*.json"):
            json.loads(record.read_text())
    assert len(seen) > 1, "the processes did move the link"
    releases.publish(bundles[1], GATE)
    releases.promote(releases.all()[0].id)


def test_a_rollback_does_not_wait_for_a_bundle_that_is_being_measured(store, releases, monkeypatch):
    first, second = publish(store), publish(store, seed=1)
    third = export(store, contents(seed=2), GOOD)
    measure, times = evidence.gather, []

    def interrupted(*arguments):
        times.append(arguments)
        if len(times) == 1:
            assert releases.rollback().id == first.id
        return measure(*arguments)

    monkeypatch.setattr(evidence, "gather", interrupted)
    release = releases.publish(third.path, GATE)
    assert len(times) == 2, "what was measured against the release that is gone is measured again"
    assert (release.judged_against, release.previous) == (first.id, first.id)
    assert releases.get(second.id).state == "rolled_back"


def test_two_publishers_at_once_are_one_after_the_other(store, releases):
    bundles = [export(store, contents(seed=seed), GOOD).path for seed in range(4)]
    orders = (bundles, bundles[::-1])
    workers = [FORK.Process(target=_publish_each, args=(store.root, order)) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(release.artifact for release in releases.all()) == sorted(
        str(bundle.relative_to(store.root)) for bundle in bundles
    )
    current = releases.current()
    assert current is not None
    assert current.previous is not None
    assert current.previous != current.id
