"""Which work pool a stage runs in, and what the worker of a pool refuses. `tests/flows/test_service.py` runs two."""

from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.states import Completed

from darec.artifacts.store import Artifact, Store
from darec.common.errors import LimitError, UserError
from darec.common.recipes import load_recipe
from darec.text.budget import one_run
from pipelines import deployments, flows, pools
from pipelines.api import answering
from pipelines.deployments import with_stage_pools
from schemas.recipe import Recipe
from stages.execute import stage_job
from stages.registry import STAGES, TASKS
from stages.walk import run, run_task
from tests.llm_stub import stub, well
from tests.prompt_bench import bench_recipe, bench_settings
from tests.stores import recipe_for

PROJECT = Path(__file__).parents[2]


def placed(**by_name: str) -> Recipe:
    return Recipe.model_validate({"runtime": {"pools": by_name}})


def test_a_stage_has_its_own_pool_or_that_of_its_subflow_and_publish_none():
    recipe = placed(semantic="gpu", split="small", collaborative="training")
    found = {name: pools.pool_of(TASKS[name], recipe) for name in ("profile_items", "split", "train", "publish")}
    assert found == {"profile_items": "gpu", "split": "small", "train": "training", "publish": None}
    assert pools.pools(recipe) == ["gpu", "small", "training"]
    assert pools.pool_of(TASKS["train"], Recipe()) is None and pools.pools(Recipe()) == []


def test_a_pool_of_no_stage_is_refused():
    with pytest.raises(UserError, match="no stage 'trian'"):
        pools.pools(placed(trian="gpu"))


def test_every_pool_gets_a_deployment_with_the_settings_of_the_other_workers():
    content = with_stage_pools(PROJECT / "prefect.yaml", ["gpu", "training"])
    nightly, *_, gpu, training = content["deployments"]
    assert (gpu["name"], training["work_pool"]["name"]) == ("gpu", "training")
    assert gpu["work_pool"] == nightly["work_pool"] | {"name": "gpu"}
    module, _, name = gpu["entrypoint"].rpartition(".")
    assert (module, name) == (pools.stage.fn.__module__, pools.stage.fn.__name__)
    assert gpu["pull"] == [{"pipelines.pools.enter_folder": {"folder": str(PROJECT)}}]
    assert nightly["work_pool"]["name"] == "darec", "the others stay as they are"


def test_a_stage_runs_in_the_folder_of_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "deployed", tmp_path / "own"):
        folder.mkdir()
    pools.enter_folder(str(tmp_path / "deployed"))
    assert Path.cwd() == tmp_path / "deployed"
    monkeypatch.setenv("DAREC_PROJECT", str(tmp_path / "own"))
    assert pools.enter_folder(str(tmp_path / "deployed")) == {"directory": str(tmp_path / "own")}
    assert Path.cwd() == tmp_path / "own"
    monkeypatch.setenv("DAREC_PROJECT", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"no folder .*missing \[DAREC_PROJECT\]"):
        pools.enter_folder(str(tmp_path / "deployed"))


def test_a_machine_with_another_recipe_or_another_store_makes_nothing(tmp_path: Path):
    path = recipe_for(tmp_path, tmp_path / "store")
    recipe = load_recipe(path)
    store = Store(recipe.runtime.store)
    upstream = {result.stage: result.artifact for result in run(recipe, "split") if result.artifact}
    job = stage_job(STAGES["graph"], recipe, upstream, store)
    keys = {name: artifact.key for name, artifact in upstream.items()}

    with pytest.raises(UserError, match="graph would make another result on this machine"):
        pools.stage.fn("graph", job.key, keys, str(path), ["graph.weighting=none"])
    with pytest.raises(UserError, match="the store lacks the result of"):
        pools.stage.fn("graph", job.key, keys, str(path), [f"runtime.store={tmp_path / 'other'}"])
    assert job.find(store) is None


def test_a_hit_needs_no_worker(tmp_path: Path):
    recipe = load_recipe(recipe_for(tmp_path, tmp_path / "store"))
    store = Store(recipe.runtime.store)
    upstream = {result.stage: result.artifact for result in run(recipe, "graph") if result.artifact}
    before = {name: artifact for name, artifact in upstream.items() if name != "graph"}
    done = pools.run_in_pool(STAGES["graph"], "nowhere", recipe, pools.Source(None), before, store, force=False)
    assert not done


def test_the_limit_of_a_run_counts_its_stages_in_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The worker is this process without its context variables; a row takes 15 tokens."""

    def run_here(name: str, recipe: Recipe, upstream: dict[str, Artifact], force: bool) -> None:
        run_task(TASKS[name], recipe, upstream, Store(recipe.runtime.store), force=force)

    def work(deployment: str, parameters: dict[str, Any], **_: Any) -> SimpleNamespace:
        state = Context().run(lambda: pools.stage.fn(**parameters))
        return SimpleNamespace(name=deployment, state=state or Completed())

    monkeypatch.setattr(pools, "run_deployment", work)
    monkeypatch.setattr(flows, "run_stage", SimpleNamespace(with_options=lambda name: run_here))
    with stub(well) as server:
        limits = {"max_tokens_per_run": 165, "concurrency": 1}
        recipe = bench_recipe(tmp_path, server.url, **limits)
        source = pools.Source(str(tmp_path / "store.yaml"), bench_settings(tmp_path, server.url, **limits))
        store = Store(recipe.runtime.store)
        upstream = {result.stage: result.artifact for result in run(recipe, "split") if result.artifact}
        asked = []
        for used in (75, 0):
            before = len(server.asked)
            with one_run() as spending, pytest.raises(LimitError, match="the LLM has used .* rows are left"):
                spending.add(used, 0)
                pools.run_in_pool(STAGES["profile_items"], "gpu", recipe, source, upstream, store, force=False)
            asked.append(len(server.asked) - before)
    assert 1 < asked[0] <= 6 < asked[1] <= 11


def test_a_folder_without_the_code_is_told_before_prefect_is_asked(tmp_path):
    (tmp_path / "prefect.yaml").write_bytes((PROJECT / "prefect.yaml").read_bytes())
    with pytest.raises(UserError, match="prefect.yaml names pipelines/flows.py, which is not there"):
        deployments._deployments(tmp_path, None, ())


@pytest.mark.parametrize("error", [RuntimeError("Failed to reach API at http://x/api/"), httpx.ConnectError("refused")])
def test_a_server_that_does_not_answer_is_the_users_to_start(error, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://x/api")
    with pytest.raises(UserError, match=r"does not answer \[PREFECT_API_URL=http://x/api\]"), answering():
        raise error
    with pytest.raises(RuntimeError, match="another"), answering():
        raise RuntimeError("another")
