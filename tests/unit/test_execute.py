"""Execution: one computation a key, hits that verify, reasons that name the change."""

import multiprocessing
from pathlib import Path

import pytest

from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from schemas.recipe import Recipe
from stages.contract import Input, Outcome, Stage, StageContext
from stages.execute import Job, Result, execute


def _count(context: StageContext) -> int:
    """How often the stage ran, by a tally beside the store."""
    tally = context.store.parent / "tally"
    with tally.open("a") as stream:
        stream.write("x")
    return len(tally.read_text())


def _write(context: StageContext) -> Outcome:
    _count(context)
    (context.out / "a.txt").write_text(str(context.recipe.split.k_core))
    (context.out / "b.txt").write_text("always the same")
    return Outcome(rows=1, report={"ok": True})


def _copy(context: StageContext) -> Outcome:
    (context.out / "c.txt").write_text(context.input("source", "b.txt").read_text())
    return Outcome(rows=1)


SOURCE = Stage("source", 1, ("a.txt", "b.txt"), lambda recipe: (), lambda recipe: {"split": recipe.split}, _write)
READER = Stage("reader", 1, ("c.txt",), lambda recipe: (Input("source", ("b.txt",)),), lambda recipe: {}, _copy)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(stage: Stage, store: Store, recipe: Recipe, upstream: dict | None = None, force: bool = False) -> Result:
    return execute(Job(stage, recipe, upstream or {}), store, force=force)


def with_core(number: int) -> Recipe:
    return Recipe.model_validate({"split": {"k_core": number}})


def test_the_second_run_is_a_hit(store: Store) -> None:
    first, second = run(SOURCE, store, Recipe()), run(SOURCE, store, Recipe())
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact == second.artifact
    assert (store.root.parent / "tally").read_text() == "x"


def test_a_runtime_setting_is_no_reason_to_run(store: Store) -> None:
    run(SOURCE, store, Recipe())
    assert run(SOURCE, store, Recipe.model_validate({"runtime": {"min_free_gb": 0.1}})).cached


def test_the_reason_names_the_field(store: Store) -> None:
    assert run(SOURCE, store, with_core(5)).why == ("never run",)
    assert run(SOURCE, store, with_core(6)).why == ("split.k_core: 5 -> 6",)


def test_a_new_version_of_the_code_runs_again(store: Store) -> None:
    run(SOURCE, store, Recipe())
    newer = Stage("source", 2, SOURCE.outputs, SOURCE.inputs, SOURCE.config, SOURCE.run)
    assert run(newer, store, Recipe()).why == ("version: 1 -> 2",)


def test_equal_content_keeps_what_follows_a_hit(store: Store) -> None:
    """`a.txt` changes, but the reader sees only `b.txt`, which does not."""
    old, new = run(SOURCE, store, with_core(5)), run(SOURCE, store, with_core(6))
    assert old.artifact and new.artifact
    assert not run(READER, store, with_core(5), {"source": old.artifact}).cached
    assert run(READER, store, with_core(6), {"source": new.artifact}).cached


def test_undeclared_files_are_out_of_reach(store: Store) -> None:
    source = run(SOURCE, store, Recipe()).artifact
    assert source is not None
    peeking = Stage(
        "reader", 1, (), READER.inputs, READER.config, lambda ctx: Outcome(len(str(ctx.input("source", "a.txt"))))
    )
    with pytest.raises(DarecError, match=r"source/a\.txt is not a declared input"):
        run(peeking, store, Recipe(), {"source": source})


def test_force_runs_though_there_is_a_hit(store: Store) -> None:
    run(SOURCE, store, Recipe())
    assert run(SOURCE, store, Recipe(), force=True).why == ("forced",)
    assert (store.root.parent / "tally").read_text() == "xx"


def test_a_corrupted_byte_is_found_and_mended(store: Store) -> None:
    artifact = run(SOURCE, store, Recipe()).artifact
    assert artifact is not None
    (artifact.path / "b.txt").write_text("always the sAme")
    repaired = run(SOURCE, store, Recipe())
    assert not repaired.cached and repaired.why == ("its artifact was damaged",)
    assert (artifact.path / "b.txt").read_text() == "always the same"


def test_a_forgotten_output_is_our_fault(store: Store) -> None:
    empty = Stage("source", 1, ("a.txt",), SOURCE.inputs, SOURCE.config, lambda context: Outcome(0))
    with pytest.raises(DarecError, match="did not write a.txt") as caught:
        run(empty, store, Recipe())
    assert not isinstance(caught.value, UserError)
    assert store.latest("source") is None


def test_work_folder_survives_failure_and_goes_with_success(store: Store) -> None:
    def fail_once(context: StageContext) -> Outcome:
        mark = context.work / "checkpoint"
        if not mark.exists():
            mark.write_text("half")
            raise RuntimeError
        (context.out / "a.txt").write_text(mark.read_text())
        return Outcome(1)

    stage = Stage("source", 1, ("a.txt",), SOURCE.inputs, SOURCE.config, fail_once)
    with pytest.raises(RuntimeError):
        run(stage, store, Recipe())
    done = run(stage, store, Recipe()).artifact
    assert done is not None and (done.path / "a.txt").read_text() == "half"
    assert not store.work("source", done.key).exists()


def _in_process(root: Path) -> None:
    run(SOURCE, Store(root), Recipe())


def test_of_two_runs_at_once_one_computes(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    runners = [context.Process(target=_in_process, args=(store.root,)) for _ in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert [runner.exitcode for runner in runners] == [0, 0, 0]
    assert (store.root.parent / "tally").read_text() == "x"
