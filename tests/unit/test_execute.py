"""Execution: one computation a key, hits that verify, reasons that name the change."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from darec.artifacts.files import File
from darec.artifacts.formats import OpaqueFile
from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from schemas.recipe import Recipe
from schemas.reports import StageReport
from stages.contract import Outcome, Stage, StageContext
from stages.execute import Result
from stages.walk import run_task


def _count(context: StageContext) -> int:
    """How often the stage ran, by a tally beside the store."""
    tally = context.store.parent / "tally"
    with tally.open("a") as stream:
        stream.write("x")
    return len(tally.read_text())


A, B, C = (
    File(stage, name, OpaqueFile()) for stage, name in (("source", "a.txt"), ("source", "b.txt"), ("reader", "c.txt"))
)


def _write(context: StageContext) -> Outcome:
    _count(context)
    (context.out / A.name).write_text(str(context.recipe.split.k_core))
    (context.out / B.name).write_text("always the same")
    return Outcome(1, StageReport())


def _copy(context: StageContext) -> Outcome:
    (context.out / C.name).write_text(context.path(B).read_text())
    return Outcome(1, StageReport())


def with_body(stage: Stage, work: Callable[[StageContext], Outcome]) -> Stage:
    return replace(stage, body=SimpleNamespace(run=work))


SOURCE = Stage(
    name="source",
    version=1,
    subflow="semantic",
    body=SimpleNamespace(run=_write),
    report=StageReport,
    reads=lambda recipe: (),
    writes=(A, B),
    config=lambda recipe: {"split": recipe.split},
)
READER = replace(
    SOURCE,
    name="reader",
    body=SimpleNamespace(run=_copy),
    reads=lambda recipe: (B,),
    writes=(C,),
    config=lambda recipe: {},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(stage: Stage, store: Store, recipe: Recipe, upstream: dict | None = None, force: bool = False) -> Result:
    return run_task(stage, recipe, upstream or {}, store, force=force)


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


def test_a_stage_whose_artifacts_are_gone_is_not_one_that_never_ran(store: Store) -> None:
    artifact = run(SOURCE, store, with_core(5)).artifact
    assert artifact is not None
    (artifact.path / "b.txt").unlink()
    assert run(SOURCE, store, with_core(6)).why == ("its artifacts are damaged",)

    for each in store.artifacts(SOURCE.name):
        store.remove(each)
    assert run(SOURCE, store, with_core(7)).why == ("its artifact was removed",)


def test_a_new_version_of_the_code_runs_again(store: Store) -> None:
    run(SOURCE, store, Recipe())
    newer = replace(SOURCE, version=2)
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
    peeking = with_body(READER, lambda context: Outcome(len(str(context.path(A))), StageReport()))
    with pytest.raises(DarecError, match=r"source/a\.txt is not a declared input"):
        run(peeking, store, Recipe(), {"source": source})


def test_force_runs_though_there_is_a_hit(store: Store) -> None:
    run(SOURCE, store, Recipe())
    assert run(SOURCE, store, Recipe(), force=True).why == ("forced",)
    assert (store.root.parent / "tally").read_text() == "xx"


def test_a_forced_stage_says_how_long_this_run_took(store: Store) -> None:
    def slow_at_first(context: StageContext) -> Outcome:
        if not store.latest(SOURCE.name):
            time.sleep(0.3)
        return _write(context)

    stage = with_body(SOURCE, slow_at_first)
    first, again = run(stage, store, Recipe()), run(stage, store, Recipe(), force=True)
    assert first.seconds > 0.3 and 0 < again.seconds != first.seconds
    assert again.artifact.manifest.seconds == first.seconds, "the artifact has the same bytes and stays"


def test_a_corrupted_byte_is_found_and_repaired(store: Store) -> None:
    artifact = run(SOURCE, store, Recipe()).artifact
    assert artifact is not None
    (artifact.path / "b.txt").write_text("always the sAme")
    repaired = run(SOURCE, store, Recipe())
    assert not repaired.cached and repaired.why == ("its artifact was damaged",)
    assert (artifact.path / "b.txt").read_text() == "always the same"


def test_a_forgotten_output_is_our_fault(store: Store) -> None:
    empty = with_body(SOURCE, lambda context: Outcome(0, StageReport()))
    with pytest.raises(DarecError, match=r"did not write a\.txt, b\.txt") as caught:
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
        return Outcome(1, StageReport())

    stage = replace(with_body(SOURCE, fail_once), writes=(A,))
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
        runner.join(240)
    assert [runner.exitcode for runner in runners] == [0, 0, 0]
    assert (store.root.parent / "tally").read_text() == "x"


def test_settings_that_follow_the_size_of_the_inputs_are_in_the_key(store: Store) -> None:
    source = run(SOURCE, store, Recipe()).artifact
    assert source is not None
    run(READER, store, Recipe(), {"source": source})
    grown = replace(READER, by_size=lambda recipe, upstream: {"rows": upstream["source"].manifest.rows})
    assert run(grown, store, Recipe(), {"source": source}).why == ("rows: null -> 1",)
