"""A person is removed from a store of two releases: every file is searched, as bytes and decoded."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from darec.artifacts import files
from darec.artifacts.store import IN_USE, Store
from darec.common.errors import TransientError, UserError
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle
from darec.serving.forgetting import forget
from darec.serving.recommend import recommend_many
from darec.serving.releases import Releases
from darec.text.models import models_root
from pipelines.cli import app
from pipelines.reports import write_report
from schemas.recipe import Recipe
from stages.plan import plan
from stages.walk import run
from tests.data import write_checkerboard
from tests.llm_stub import Handler, completion, send, stub

PERSON, OTHERS = "person-007", [f"person-{number:03d}" for number in range(16) if number != 7]
PROMPTS = Path("prompts").resolve()
pytestmark = pytest.mark.skipif(
    not (models_root() / "all-minilm-l6-v2").is_dir(), reason="the text encoder is not fetched: darec models fetch"
)


@dataclass(frozen=True)
class Scene:
    """A folder with raw data, a recipe and a store, and all that is to be gone from the store."""

    folder: Path
    needles: list[bytes]

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(self.folder / "recipe.yaml", overrides)

    def darec(self, *arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--recipe", str(self.folder / "recipe.yaml")])
        if result.exception is not None:
            raise result.exception
        return result.output


def answer(request: dict, handler: Handler) -> None:
    """Every prompt has a profile of its own."""
    digest = hashlib.sha256(request["messages"][-1]["content"].encode()).hexdigest()[:12]
    send(handler, completion(json.dumps({"profile": f"Enjoys what number {digest} stands for."})))


def write_data(folder: Path, people: list[str], seed: int = 0) -> None:
    write_checkerboard(folder, users=16, items=12, seed=seed)
    for name in ("interactions", "users"):
        table = pl.read_csv(folder / f"{name}.csv").with_columns(pl.col("user_id").str.replace("u", "person-"))
        table.filter(pl.col("user_id").is_in(people)).write_csv(folder / f"{name}.csv")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[Scene]:
    """Two nights of other data: two releases, two texts about each person."""
    folder = tmp_path_factory.mktemp("forget")
    with stub(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREC_MODELS", str(models_root().resolve()))
        recipe = {
            "data": {"source": "csv", "interaction_columns": {"rating": "rating", "timestamp": "timestamp"}},
            "split": {"k_core": 1},
            "llm": {"engine": "server", "server_url": server.url, "model": "stub", "concurrency": 4},
            "train": {"epochs": 4, "eval_every": 2, "dim": 8},
            "gate": {"minimums": {}, "tolerances": {}, "max_fallback_share": 1},
            "runtime": {"store": str(folder / "store"), "min_free_gb": 0.001},
        }
        recipe["data"] |= {name: str(folder / f"{name}.csv") for name in ("interactions", "items", "users")}
        for name in ("profile_items", "profile_users"):
            recipe[name] = {"prompt": str(PROMPTS / f"{name.removeprefix('profile_')[:-1]}_profile.j2")}
        recipe["profile_users"]["items"] = 3
        recipe["embed"] = {"item_prompt": str(PROMPTS / "item_text.j2"), "user_prompt": str(PROMPTS / "user_text.j2")}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for seed in range(2):
            write_data(folder, [PERSON, *OTHERS], seed)
            run(load_recipe(folder / "recipe.yaml"))
            write_report(Store(folder / "store"))
        yield Scene(folder, needles_in(Store(folder / "store")))


@pytest.fixture
def scene(template: Scene, tmp_path: Path) -> Scene:
    """A copy of its own."""
    shutil.copytree(template.folder, tmp_path / "scene", symlinks=True)
    recipe = tmp_path / "scene" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(template.folder), str(tmp_path / "scene")))
    return Scene(tmp_path / "scene", template.needles)


def needles_in(store: Store) -> list[bytes]:
    """The id, every text about the person, and their text vectors and trained vectors, as float32."""
    found = {PERSON.encode()}
    for artifact in store.artifacts("profile_users"):
        found |= {text.encode() for text in files.USER_PROFILES.of(artifact).filter(user_id=PERSON)["profile"]}
    for stage, file in (("embed", files.TEXT_VECTORS), ("train", files.EMBEDDINGS)):
        found |= {file.of(artifact).user[7].tobytes() for artifact in store.artifacts(stage)}
    for artifact in store.artifacts("export"):
        vector = Bundle.open(artifact.path).users([PERSON])["vector"].to_numpy()
        found.add(vector.astype(np.float32).tobytes())
    assert len(found) == 1 + 2 + 2 + 2, "the trained vectors are those of the bundles, and the nights differ"
    return sorted(found)


def hits(root: Path, needles: list[bytes]) -> list[str]:
    """The files that hold a needle, in their bytes or decoded."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        content = [path.read_bytes()]
        if path.suffix == ".parquet":
            content += [cell for column in pl.read_parquet(path) for cell in cells(column)]
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as db:
                rows = db.execute("SELECT * FROM rows").fetchall()
                content += [str(cell).encode() if not isinstance(cell, bytes) else cell for row in rows for cell in row]
        if any(needle in part for needle in needles for part in content):
            found.append(str(path.relative_to(root)))
    return found


def cells(column: pl.Series) -> list[bytes]:
    if isinstance(column.dtype, pl.Array):
        return [np.ascontiguousarray(column.to_numpy()).tobytes()]
    return [value if isinstance(value, bytes) else str(value).encode() for value in column]


def answers(store: Store) -> dict[str, str]:
    """What each release that is kept gives to all others, as JSON."""
    releases = Releases(store.root)
    return {
        release.id: recommend_many(Bundle.open(releases.folder(release)), OTHERS, 5).write_json()
        for release in releases.all()
    }


def test_nothing_of_the_person_is_left_in_any_file_and_others_get_the_same(scene: Scene) -> None:
    before = answers(scene.store)
    assert len(before) == 2
    rooms = {path.split("/")[0] for path in hits(scene.store.root, scene.needles)}
    assert {"artifacts", "ledger"} <= rooms

    planned = json.loads(scene.darec("forget", "--user", PERSON, "--dry-run", "--json"))
    receipt = json.loads(scene.darec("forget", "--user", PERSON, "--why", f"{PERSON} asked for it", "--json"))
    assert hits(scene.store.root, scene.needles) == []
    assert receipt["counts"] == planned["counts"]
    assert (
        receipt["counts"] | {"releases rewritten": 2, "reports deleted": 2, "profiles": 2, "text vectors": 2}
        == receipt["counts"]
    )
    assert receipt["why"] == "(the person) asked for it"
    assert str(scene.folder / "interactions.csv") in " ".join(receipt["left"])
    [kept] = (scene.store.root / "receipts").iterdir()
    assert json.loads(kept.read_text()) == receipt
    assert kept.stat().st_mode & 0o077 == 0

    assert answers(scene.store) == before
    with pytest.raises(UserError, match=f"user '{PERSON}' is not in the release"):
        scene.darec("recommend", "--user", PERSON)
    with pytest.raises(UserError, match=f"user '{PERSON}' is not in the store .*nearest known: person-0"):
        scene.darec("forget", "--user", PERSON)
    assert scene.store.artifacts("profile_items") and not scene.store.artifacts("profile_users")


def lists_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "*.parquet").sort("user_id", "rank")


def test_the_lists_of_all_users_are_written_again_without_the_person(scene: Scene) -> None:
    folder = scene.folder / "lists"
    recipe = ("--set", f"lists.out={folder}", "--set", "lists.k=3")
    planned = json.loads(scene.darec("forget", "--user", PERSON, "--dry-run", "--json", *recipe))
    assert planned["counts"]["lists of all users written again"] == 0 and str(folder) in " ".join(planned["left"])

    scene.darec("recommend", "--all", *recipe)
    before = lists_of(folder)
    assert PERSON in before["user_id"]
    planned = json.loads(scene.darec("forget", "--user", PERSON, "--dry-run", "--json", *recipe))
    assert planned["counts"]["lists of all users written again"] == 1 and lists_of(folder).equals(before)
    receipt = json.loads(scene.darec("forget", "--user", PERSON, "--json", *recipe))
    assert receipt["counts"] == planned["counts"] and str(folder) not in " ".join(receipt["left"])
    assert lists_of(folder).equals(before.filter(pl.col("user_id") != PERSON))
    assert hits(scene.folder / "lists", scene.needles) == []


def test_lists_that_cannot_be_written_are_named_and_a_second_call_finishes(scene: Scene) -> None:
    folder = scene.folder / "lists"
    recipe = ("--set", f"lists.out={folder}")
    scene.darec("recommend", "--all", *recipe)
    draft = folder.with_name(".lists.unfinished")
    draft.mkdir()
    descriptor = os.open(draft, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match="another process is writing these lists .* run `darec forget` again"):
            scene.darec("forget", "--user", PERSON, *recipe)
    finally:
        os.close(descriptor)

    receipt = json.loads(scene.darec("forget", "--user", PERSON, "--json", *recipe))
    assert receipt["counts"]["lists of all users written again"] == 1
    assert PERSON not in lists_of(folder)["user_id"] and hits(scene.store.root, scene.needles) == []


def test_releases_are_rolled_back_and_promoted_afterwards(scene: Scene) -> None:
    newest, oldest = (release.id for release in Releases(scene.store.root).all())
    scene.darec("forget", "--user", PERSON)
    assert f"current: {oldest}" in scene.darec("rollback")
    assert json.loads(scene.darec("recommend", "--user", OTHERS[0], "-k", "3", "--json"))
    assert f"current: {newest}" in scene.darec("promote", newest)
    assert Releases(scene.store.root).trouble() is None
    for release in Releases(scene.store.root).all():
        assert Releases(scene.store.root).of_bundle(Releases(scene.store.root).folder(release)) == release
        assert release.report.users.rows == len(OTHERS)


def test_two_people_are_forgotten_one_after_the_other(scene: Scene) -> None:
    before = answers(scene.store)
    scene.darec("forget", "--user", PERSON)
    scene.darec("forget", "--user", OTHERS[0])
    users = OTHERS[1:]
    for name, text in answers_of(scene.store, users).items():
        assert json.loads(text) == [row for row in json.loads(before[name]) if row["user_id"] in users]
    assert hits(scene.store.root, [*scene.needles, OTHERS[0].encode()]) == []


def answers_of(store: Store, users: list[str]) -> dict[str, str]:
    releases = Releases(store.root)
    return {
        release.id: recommend_many(Bundle.open(releases.folder(release)), users, 5).write_json()
        for release in releases.all()
    }


def test_the_next_run_on_data_without_the_person_pays_for_nobody_else(scene: Scene) -> None:
    scene.darec("forget", "--user", PERSON)
    assert plan(scene.recipe(), scene.store)[0].why == ("its artifact was removed by `darec forget`",)
    write_data(scene.folder, OTHERS, seed=1)
    with stub(answer) as server:
        results = run(scene.recipe(f"llm.server_url={server.url}"))
        assert results[-1].state in ("published", "refused")
        assert len(server.asked) == 0, "the texts of all others are in the ledger"
    assert hits(scene.store.root, scene.needles) == []
    assert all(step.state == "hit" for step in plan(scene.recipe(), scene.store))


def test_a_dry_run_changes_nothing(scene: Scene) -> None:
    def contents() -> dict[Path, bytes]:
        paths = (path for path in scene.store.root.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {path: path.read_bytes() for path in paths}

    before = contents()
    assert "Would be removed" in scene.darec("forget", "--user", PERSON, "--dry-run")
    assert contents() == before


def test_a_person_nobody_knows_and_a_run_under_way_change_nothing(scene: Scene) -> None:
    with pytest.raises(UserError, match=r"'person-7' is not in the store .*nearest known: person-0"):
        scene.darec("forget", "--user", "person-7")
    with scene.store.in_use(), pytest.raises(TransientError, match="a run is active"):
        scene.darec("forget", "--user", PERSON)
    assert (scene.store.root / "leases" / f"{IN_USE}.lock").is_file()
    assert hits(scene.store.root, scene.needles)


def test_what_people_wrote_and_what_was_set_aside_goes_too(scene: Scene) -> None:
    root, [_, text, *_] = scene.store.root, [n for n in scene.needles if n.isascii()]
    newest = Releases(root).all()[0].id
    scene.darec("rollback", "--why", f"complaint of {PERSON}")
    scene.darec("promote", newest, "--why", "it was no fault")
    failed = {"started": "2026-01-01T00:00:00Z", "outcome": "failed", "why": f"user {PERSON} has a bad age"}
    with (root / "nights.jsonl").open("a") as stream:
        stream.write(json.dumps(failed) + "\n")
    (root / "ledger" / "profiles-1.damaged").write_bytes(b"page with " + text)
    shutil.copytree(scene.store.artifacts("split")[0].path, root / "replaced" / "1" / "split" / "abc")
    shutil.copytree(scene.store.artifacts("split")[0].path, root / "damaged" / "split-abc-1")
    (root / "work" / "train" / "abc").mkdir(parents=True)
    (root / "work" / "train" / "abc" / "checkpoint").write_bytes(scene.needles[0])

    scene.darec("forget", "--user", PERSON)
    assert hits(root, scene.needles) == []
    assert "it was no fault" in scene.darec("releases", "--json")
    assert "removed with a person" in scene.darec("history", "--json")


def test_a_person_is_forgotten_in_a_store_of_version_0_1(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "legacy" / "store-0.1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    store, person = Store(tmp_path / "store"), "u003"
    profiles = files.USER_PROFILES.of(store.artifacts("profile_users")[0])
    row, vectors = profiles["user_id"].to_list().index(person), files.TEXT_VECTORS.of(store.artifacts("embed")[0])
    needles = [person.encode(), profiles["profile"][row].encode(), vectors.user[row].tobytes()]
    assert len({path.split("/")[1] for path in hits(store.root, needles) if path.startswith("ledger")}) == 2
    users = [user for user in profiles["user_id"] if user != person]
    before = answers_of(store, users)

    receipt = forget(store, person)
    assert receipt.counts["releases rewritten"] == 2 and receipt.counts["old and damaged ledger files"] > 0
    assert hits(store.root, needles) == []
    assert answers_of(store, users) == before


_SCRIPT = """
import os, signal, sys
from pathlib import Path
import polars, darec.serving.forgetting
from darec.artifacts.store import Store
from darec.serving.forgetting import forget

COUNTED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "sqlite3.connect"}
left = int(sys.argv[3])

def hook(event, arguments):
    global left
    if event in COUNTED:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
forget(Store(Path(sys.argv[1])), sys.argv[2])
print(-left)
"""


def forget_in_a_process(store: Path, operations: int) -> subprocess.CompletedProcess[str]:
    """Kills the process -9 at this file operation; 0 kills it at none and says how many there are."""
    arguments = [sys.executable, "-c", _SCRIPT, str(store), PERSON, str(operations)]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=300)


def test_killed_at_any_moment_the_old_or_the_new_release_serves_and_a_second_call_finishes(scene: Scene) -> None:
    expected = answers(scene.store)
    spare = scene.folder / "spare"
    shutil.copytree(scene.store.root, spare, symlinks=True)
    whole = forget_in_a_process(spare, 0)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout)
    assert total > 60

    moments = sorted({1, total, *np.linspace(2, total - 1, int(os.environ.get("DAREC_KILLS", "8"))).astype(int)})
    for moment in moments:
        shutil.rmtree(spare)
        shutil.copytree(scene.store.root, spare, symlinks=True)
        killed = forget_in_a_process(spare, int(moment))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        store = Store(spare)
        assert answers(store) == expected
        assert Bundle.open(spare / "current").folder.is_dir()

        try:
            forget(store, PERSON)
        except UserError as error:
            assert "is not in the store" in str(error)
        assert hits(spare, scene.needles) == [], f"after a kill at operation {moment}"
        assert answers(store) == expected and Releases(spare).trouble() is None
        assert list((spare / "receipts").iterdir())
