"""A second day on a finished store: every hashed field and every prompt is edited once, and every stage is killed.

The data is small; the LLM (in one engine for all runs, so that it is loaded once), the encoder and everything else are
real.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from darec.common.logs import configure
from darec.text.engine import OfflineEngine
from darec.text.generate import ENGINES
from darec.text.models import models_root
from pipelines.cli import run as command
from pipelines.reports import report_run
from pipelines.tables import print_plan, print_results
from schemas.recipe import Recipe
from stages import plan as planning
from stages.declarations import EMBED, PROFILE_ITEMS, PROFILE_USERS
from stages.plan import plan
from stages.registry import STAGES
from stages.walk import run
from tests.data import write_checkerboard
from tests.engines import finished_run, the_recipe
from tests.nursery import Nursery
from tests.unit.test_keys import _changed, _leaves

pytestmark = pytest.mark.skipif(
    not (models_root() / "smollm2-135m-instruct").is_dir(), reason="the LLM is not fetched: darec models fetch"
)
ELSEWHERE = {("data", "events"), ("vectors",), ("tracking",)}
"""These need other data or a server, and have tests of their own."""
HASHED = [path for path, is_free in _leaves(Recipe()) if not is_free and path not in ELSEWHERE]
MAY_BE_REFUSED = {("embed", "model"), ("llm", "model"), ("data", "source"), ("evaluate", "category")}
"""These, and columns and formats of files, may not fit what is there: then one clear line says so."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, engine: OfflineEngine) -> Iterator[Path]:
    """A folder with data, prompts of its own, a recipe, and one finished run."""
    folder = tmp_path_factory.mktemp("second-day")
    write_checkerboard(folder, users=10, items=8)
    sections = {
        "train": {"epochs": 3, "eval_every": 1, "dim": 8, "refit": "all"},
        "search": {"epochs": 1},
        "rerank": {"name": "mmr"},
    }
    with finished_run(folder, sections, engine):
        yield folder


def go_on(recipe: Recipe) -> list[str]:
    """Plans, shows, runs and reports as `darec run` does; the stages that had something to do."""
    store = Store(recipe.runtime.store)
    steps = plan(recipe, store)
    print_plan(steps, recipe.llm)
    results = run(recipe)
    print_results(results)
    report_run(store, results)
    return [result.stage for result in results if not result.cached]


@pytest.mark.slow
@pytest.mark.parametrize("path", HASHED, ids=".".join)
def test_any_hashed_field_may_be_edited(world: Path, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Other engines of the LLM are the same one here: `test_llm` starts the real ones."""
    changed = _changed(the_recipe(), path)
    monkeypatch.setitem(ENGINES._factories, changed.llm.engine, ENGINES._factories["offline"])
    try:
        go_on(changed)
    except UserError:
        assert path in MAY_BE_REFUSED or path[1].endswith(("columns", "format"))
        return
    assert go_on(changed) == [], "nothing is left to do"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [PROFILE_ITEMS, PROFILE_USERS], ids=lambda stage: stage.name)
def test_a_prompt_of_the_llm_may_be_edited(world: Path, stage) -> None:
    prompt = world / "prompts" / Path(getattr(the_recipe(), stage.name).prompt).name
    prompt.write_text(prompt.read_text().replace("{% block user -%}", "{% block user -%}Be brief. ", 1))
    assert go_on(the_recipe())[0] == stage.name
    assert go_on(the_recipe()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["item_text.j2", "user_text.j2"])
def test_a_prompt_of_the_encoder_may_be_edited(world: Path, name: str) -> None:
    prompt = world / "prompts" / name
    prompt.write_text(prompt.read_text().replace("{% block text -%}", "{% block text -%}About: ", 1))
    assert go_on(the_recipe())[0] == EMBED.name
    assert go_on(the_recipe()) == []


@pytest.fixture(scope="module")
def nursery(world: Path) -> Iterator[Nursery]:
    """Runs in `world` without the imports of a new process each."""
    with Nursery() as nursery:
        yield nursery


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_that_is_killed_in_a_stage_goes_on(world: Path, nursery: Nursery, stage: str, when: str) -> None:
    current = (Path("store") / "current").readlink()
    assert nursery.run_and_kill_in(stage, when)
    assert (Path("store") / "current").readlink() == current
    assert all(artifact.damage(checksums=True) is None for artifact in Store(Path("store")).artifacts())

    results = run(the_recipe(), force=[stage])
    generated = [getattr(result.report, "generated", 0) for result in results if not result.cached]
    assert sum(generated) == 0, "a row that was paid for was generated again"


def test_an_error_of_a_display_stops_no_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import direct

    def fails(*_: object) -> None:
        raise KeyError("prompt_tokens")

    monkeypatch.setattr(direct, "report_run", fails)
    log = io.StringIO()
    configure("text", log)
    results = direct.run_directly(the_recipe(), "publish", ())
    assert results[-1].stage == "publish"
    assert "the report could not be shown" in log.getvalue()


def test_an_error_of_the_plan_or_of_the_last_table_stops_no_run(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("prompt_tokens")

    monkeypatch.setattr(planning, "estimate", fails)
    monkeypatch.setattr(command, "print_results", fails)
    command.run(recipe=Path("recipe.yaml"), overrides=["graph.weighting=none"])
    said = " ".join(caplog.messages)
    assert "the plan could not be shown (KeyError" in said and "the results could not be shown (KeyError" in said


def test_a_failure_says_which_stage_and_keeps_the_release(world: Path) -> None:
    current = (Path("store") / "current").readlink()
    with pytest.raises(DarecError):
        run(the_recipe("llm.model=nobody"))
    assert (Path("store") / "current").readlink() == current
