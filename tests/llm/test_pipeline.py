"""The whole pipeline with the real vLLM and the real models on a small slice: what is re-run, what survives a kill.

Runs of this process share one engine; a run that is killed has a separate one.
"""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.serving.releases import Releases
from darec.text.engine import OfflineEngine
from darec.text.models import models_root
from pipelines.cli import app
from stages.execute import Result
from stages.plan import plan
from stages.walk import run
from tests.data import write_checkerboard
from tests.engines import finished_run, the_recipe
from tests.nursery import Nursery
from tests.stores import contents, flip_a_bit, ledger_keys

pytestmark = pytest.mark.skipif(
    not (models_root() / "smollm2-135m-instruct").is_dir(), reason="the LLM is not fetched: darec models fetch"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, engine: OfflineEngine) -> Iterator[Path]:
    """A folder with data, prompts of its own, a recipe, and one finished run."""
    folder = tmp_path_factory.mktemp("world")
    write_checkerboard(folder, users=16, items=12)
    sections = {
        "llm": {"chunk": 4, "workers": 1, "dtype": "float32", "max_model_len": 512},
        "profile_users": {"items": 3},
        "train": {"epochs": 10, "checkpoint_every": 1},
    }
    with finished_run(folder, sections, engine):
        yield folder


def the_store() -> Store:
    return Store(Path("store"))


def ran(results: list[Result]) -> list[str]:
    return [result.stage for result in results if not result.cached]


def report(results: list[Result], stage: str) -> Any:
    return next(result.report for result in results if result.stage == stage)


def test_every_row_has_a_profile_and_a_vector(world: Path) -> None:
    from safetensors.numpy import load_file

    for stage, rows in (("profile_items", 12), ("profile_users", 16)):
        artifact = the_store().latest(stage)
        assert artifact is not None
        profiles = pl.read_parquet(artifact.path / "profiles.parquet")
        assert profiles.height == rows
        assert profiles["profile"].str.len_chars().min() > 0
        assert artifact.manifest.report["generated"] == rows
        assert (profiles["source"] == "llm").mean() > 0.7
    embedded = the_store().latest("embed")
    assert embedded is not None
    vectors = load_file(embedded.path / "vectors.safetensors")
    assert vectors["item"].shape == (12, 384) and vectors["user"].shape == (16, 384)


def test_a_second_run_does_nothing(world: Path) -> None:
    assert ran(run(the_recipe())) == []
    assert all(step.state == "hit" for step in plan(the_recipe(), the_store()))


def test_no_stage_before_evaluate_reads_the_test_set(world: Path) -> None:
    for stage in ("profile_items", "profile_users", "embed", "graph", "train_reference", "train"):
        artifact = the_store().latest(stage)
        assert artifact is not None
        for record in artifact.manifest.inputs.values():
            assert "test.parquet" not in record.files
            assert "interactions.parquet" not in record.files


def test_an_edited_user_prompt_re_runs_the_users_and_what_follows(world: Path) -> None:
    prompt = world / "prompts" / "user_profile.j2"
    text = prompt.read_text()
    assert "what a person enjoys" in text
    prompt.write_text(text.replace("what a person enjoys", "what a person likes", 1))
    try:
        step = next(step for step in plan(the_recipe(), the_store()) if step.state == "stale")
        assert (step.task.name, step.rows) == ("profile_users", 16)
        assert any("prompt" in reason for reason in step.why)
        results = run(the_recipe(), "embed")
    finally:
        prompt.write_text(text)
    assert ran(results) == ["profile_users", "embed"]
    assert report(results, "profile_users").generated == 16
    assert ran(run(the_recipe())) == []  # the old prompt again: everything is still there


def test_an_edited_title_asks_for_one_item_and_the_users_who_see_it(world: Path) -> None:
    items = world / "items.csv"
    text = items.read_text()
    title = pl.read_csv(items)["title"][0]
    artifact = the_store().latest("profile_users")
    assert artifact is not None
    items.write_text(text.replace(title, "The Unheard Of Opera", 1))
    try:
        results = run(the_recipe(), "profile_users")
        again = run(the_recipe(), "profile_users")
    finally:
        items.write_text(text)
    assert ran(results) == ["ingest", "profile_items", "profile_users"]
    assert report(results, "profile_items").generated == 1
    assert 0 < report(results, "profile_users").generated < 16
    assert report(results, "profile_users").generated == users_shown_item(0)
    assert ran(again) == []


def users_shown_item(number: int) -> int:
    """Users whose prompt holds the item, counted from the policy itself."""
    from darec.text.histories import choose_pairs

    split = the_store().latest("split")
    assert split is not None
    train, users, items = (pl.read_parquet(split.path / f"{name}.parquet") for name in ("train", "users", "items"))
    config = the_recipe().profile_users
    chosen = choose_pairs(train, users, items, config.items, config.seed)
    return chosen.filter(item_index=number)["user_index"].n_unique()


def test_a_search_asks_the_llm_only_for_what_a_trial_changes(world: Path) -> None:
    space = {
        "profile_users.items": {"kind": "choice", "values": [2, 3]},
        "train.learning_rate": {"kind": "float", "low": 1e-3, "high": 1e-1, "log": True},
    }
    search = {"name": "t", "data": {"board": "recipe.yaml"}, "base": {"train.epochs": 6}, "space": space, "trials": 3}
    Path("tune.yaml").write_text(yaml.safe_dump(search))
    stages = ("split", "profile_items", "profile_users", "embed")
    before = [len(the_store().artifacts(stage)) for stage in stages]
    result = CliRunner().invoke(app, ["tune", "tune.yaml", "--out", "studies"])
    assert result.exit_code == 0, result.output
    assert {f"'profile_users.items': {items}" in result.output for items in (2, 3)} == {True}
    made = [len(the_store().artifacts(stage)) - were for stage, were in zip(stages, before, strict=True)]
    assert made == [0, 0, 1, 1]
    best = yaml.safe_load(Path("studies/t/best.yaml").read_text())["t"]
    assert best["trials"] == 3 and set(best["set"]) == set(space)


@pytest.fixture(scope="module")
def nursery(world: Path) -> Iterator[Nursery]:
    with Nursery() as process:
        yield process


def profiles() -> int:
    return len(ledger_keys(Path("store/ledger/profiles.sqlite")))


def test_kill_in_profiling_training_and_export_loses_nothing(world: Path, nursery: Nursery) -> None:
    published = Releases(Path("store")).current()
    assert published is not None
    change = "llm.temperature=0.01"

    before = profiles()
    assert nursery.run_and_kill_when([change], lambda: profiles() > before), "there was no engine"
    assert Releases(Path("store")).current() == published

    results = run(the_recipe(change), "embed")
    written = report(results, "profile_items")
    assert written.from_ledger >= 4
    assert written.generated + written.from_ledger == 12

    work = Path("store/work")
    endless = [change, "train.epochs=4000", "train.patience=4000"]
    nursery.run_and_kill_when(endless, lambda: any(work.glob("train*/*/checkpoint*")))
    assert Releases(Path("store")).current() == published

    assert nursery.run_and_kill_in("export", "before", [change])
    assert any(Path("store/tmp").glob("export-*"))
    assert Releases(Path("store")).current() == published

    results = run(the_recipe(change))
    assert {"profile_items", "profile_users", "embed"}.isdisjoint(ran(results))
    last = Releases(Path("store")).current()
    assert last is not None and last.id != published.id
    assert json.loads((Path("store/current") / "manifest.json").read_text())["stage"] == "export"


def fresh_store(name: str) -> Path:
    """A store that holds nothing but the rows the LLM and the encoder have made: no run shall make one again."""
    shutil.copytree("store/ledger", f"{name}/ledger")
    return Path(name)


def test_twenty_kills_over_a_whole_run_and_one_resume_end_with_the_same_bytes(world: Path, nursery: Nursery) -> None:
    assert not nursery.run_and_kill_at([f"runtime.store={fresh_store('calm')}"], 0)
    calls = int(Path("calls").read_text())
    chance, kills, number = random.Random(20), 0, 0
    while kills < 20:
        number += 1
        store = fresh_store(f"stormy-{number}")
        setting = f"runtime.store={store}"
        while kills < 20 and nursery.run_and_kill_at([setting], chance.randrange(1, calls // 2)):
            kills += 1
            assert all(artifact.damage(checksums=True) is None for artifact in Store(store).artifacts())
        assert not nursery.run_and_kill_at([setting], 0)  # in one thread as well: with two the last bits differ
        assert contents(store) == contents(Path("calm"))
        assert (store / "current" / "items.faiss").is_file()
        for stage in ("profile_items", "profile_users", "embed"):
            [artifact] = Store(store).artifacts(stage)
            assert artifact.manifest.report["generated"] == 0


def test_a_flipped_bit_in_profiles_or_text_vectors_is_mended_from_the_ledger(world: Path) -> None:
    setting = f"runtime.store={fresh_store('flipped')}"
    run(the_recipe(setting))
    store = Store(Path("flipped"))
    before = contents(store.root)
    for stage in ("profile_items", "profile_users", "embed"):
        [artifact] = store.artifacts(stage)
        for name in artifact.hashes:
            flip_a_bit(artifact.path / name)
            results = run(the_recipe(setting))
            assert ran(results) == [stage] and report(results, stage).generated == 0
            assert contents(store.root) == before
