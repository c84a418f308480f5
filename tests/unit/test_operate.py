"""The forms for operators and what the UI shows, without a server."""

import base64
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from prefect.states import exception_to_failed_state
from prefect.utilities.asyncutils import run_coro_as_sync

from darec.artifacts.store import Store
from darec.common.charts import Chart, Series, image_uri
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.recipes import load_recipe
from pipelines import operate, show_ui
from pipelines.deployments import HEARTBEAT_SECONDS, WORK_POOL
from pipelines.flows import is_transient, prepared, run_stage
from schemas.recipe import Recipe
from schemas.reports import EvaluationReport
from stages.contract import Pending
from stages.costs import UNKNOWN, Cost, estimate
from stages.registry import STAGES, TASKS
from tests.unit.test_retention import add

PROJECT = Path(__file__).parents[2]


def template(user: str) -> str:
    return f"{{% block system %}}Say.{{% endblock %}}\n{{% block user %}}{user}{{% endblock %}}"


def test_the_drop_down_lists_every_stage():
    assert get_args(operate.StageName) == tuple(TASKS)


def test_tasks_have_names_for_operators():
    assert (operate._follow.name, operate._collect.name) == ("follow", "collect")


def test_every_deployment_of_prefect_yaml_names_a_flow_and_its_parameters():
    content = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
    for deployment in content["deployments"]:
        path, name = deployment["entrypoint"].split(":")
        assert f"def {name}(" in (PROJECT / path).read_text()
        assert deployment["work_pool"]["name"] == WORK_POOL
        heartbeat = deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert int(heartbeat) == HEARTBEAT_SECONDS


def test_an_edited_prompt_is_found_by_its_bytes_whoever_wrote_it(tmp_path: Path):
    prompt = tmp_path / "prompts" / "user.j2"
    settings = [f"runtime.store={tmp_path / 'store'}", f"profile_users.prompt={prompt}"]
    recipe = load_recipe(None, settings)
    path = operate.edited_prompt(recipe, "profile_users", template("Hello\r\n{{ items }}"))
    assert path.read_text() == template("Hello\n{{ items }}") + "\n" and path.parent == tmp_path / "store" / "prompts"
    assert operate.edited_prompt(recipe, "profile_users", template("Hello\n{{ items }}") + "\n") == path
    assert operate.edited_prompt(recipe, "profile_users", template("Other")) != path
    assert not prompt.exists()
    operate.edited_prompt(recipe, "profile_users", template("Kept"), nightly=recipe)
    assert prompt.read_text() == template("Kept") + "\n"
    with pytest.raises(UserError, match="has no prompt"):
        operate.edited_prompt(recipe, "train", "text")


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        (template("{{ title }}"), "unknown variable 'title'"),  # known to profile_items alone
        (template("{% if items %}"), "not a Jinja template"),
        (template("{{ items | nonsense }}"), "not a Jinja template"),
        ("{{ items }}", "no block system"),
        (template("x") + "{% block assistant %}{% endblock %}", "last block is not `user`"),
    ],
)
def test_a_faulty_prompt_is_refused_before_anything_is_written(tmp_path: Path, text: str, trouble: str):
    prompt = tmp_path / "user.j2"
    prompt.write_text("the nights' own")
    recipe = load_recipe(None, [f"runtime.store={tmp_path / 'store'}", f"profile_users.prompt={prompt}"])
    with pytest.raises(UserError, match=trouble) as caught:
        operate.edited_prompt(recipe, "profile_users", text, nightly=recipe)
    assert caught.value.where.startswith("the form's prompt")
    assert [path.name for path in tmp_path.rglob("*")] == ["user.j2"]
    assert prompt.read_text() == "the nights' own"


def test_a_prompt_is_kept_where_the_recipe_says_and_not_where_an_override_does(tmp_path: Path, monkeypatch):
    nightly, other = tmp_path / "nightly.j2", tmp_path / "other.j2"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"profile_users": {"prompt": str(nightly)}}))
    asked: list[list[str]] = []
    monkeypatch.setattr(operate, "darec", lambda recipe, settings, until, force: asked.append(settings))
    overrides = (f"runtime.store={tmp_path / 'store'}", f"profile_users.prompt={other}")
    operate.rerun_stage.fn(prompt=template("New"), keep_prompt=True, overrides=overrides, recipe=str(file))
    assert nightly.read_text() == template("New") + "\n"
    assert not other.exists()
    used = Path(load_recipe(file, asked[0]).profile_users.prompt)
    assert used.parent == tmp_path / "store" / "prompts" and used.read_text() == nightly.read_text()


def test_the_plan_scales_the_last_generation_to_the_rows_to_do(tmp_path: Path):
    store = Store(tmp_path)
    artifact = add(store, "profile_users", "k", {})
    report = {"generated": 100, "prompt_tokens": 900, "output_tokens": 100, "seconds": 60.0}
    manifest = artifact.manifest.model_copy(update={"report": report})
    (artifact.path / "manifest.json").write_text(manifest.model_dump_json())
    recipe = load_recipe(None, ["llm.price_per_million_input=2", "llm.price_per_million_output=10"])
    cost = estimate(STAGES["profile_users"], Pending(50, 450), recipe, store, 60.0)
    assert (cost.tokens, cost.minutes) == (500, 0.5) and cost.price == pytest.approx(450 * 2e-6 + 50 * 10e-6)
    known = estimate(STAGES["profile_users"], Pending(50, 450, 100), recipe, store, 60.0)
    assert (known.output_tokens, known.minutes) == (100, pytest.approx(0.55))
    assert estimate(STAGES["graph"], None, recipe, store, None) == UNKNOWN
    never = estimate(STAGES["profile_items"], Pending(10, 300), Recipe(), store, None)
    assert never == Cost(300, 10 * Recipe().profile_items.max_tokens, None, None), "an upper bound"


def test_metrics_stand_beside_the_current_release():
    report = EvaluationReport(test={"recall@20": 0.22}, popularity={"recall@20": 0.1})
    [row] = show_ui.metric_rows(report, {"recall@20": 0.20})
    beside = {"popularity": 0.1, "reference": None, "current release, own test": 0.2}
    assert row == {"metric": "recall@20", "this run": 0.22} | beside, "no change: the two nights have two tests"
    assert show_ui.metric_rows(report, {})[0]["current release, own test"] is None


def test_curves_are_means_by_epoch_and_valid_svg(tmp_path: Path):
    rows = {"epoch": [1, 1, 2], "step": [1, 2, 3], "name": ["loss/a<b"] * 3, "value": [1.0, 3.0, 1.0]}
    pl.DataFrame(rows).write_parquet(tmp_path / "history.parquet")
    curves = show_ui.history_curves(tmp_path / "history.parquet")
    assert curves == [Series("loss/a<b", ((1.0, 2.0), (2.0, 1.0)))]
    picture = base64.b64decode(image_uri(Chart("a & b", "epoch", tuple(curves))).split(",")[1])
    root = ElementTree.fromstring(picture)
    line = root.find("{*}polyline")
    assert line is not None
    first, last = (tuple(map(float, point.split(","))) for point in line.get("points", "").split())
    assert first[0] < last[0] and first[1] < last[1], "the loss falls"
    assert [dot.text for dot in root.iterfind("{*}circle/{*}title")] == ["loss/a<b: 1"]
    empty = base64.b64decode(image_uri(Chart("empty", "epoch", ())).split(",")[1])
    ElementTree.fromstring(empty)


def test_only_what_may_pass_by_itself_is_tried_again():
    def retried(error: Exception) -> bool:
        state = run_coro_as_sync(exception_to_failed_state(error))
        return is_transient(run_stage, None, state)  # type: ignore[arg-type]

    assert retried(TransientError("the LLM server cannot be reached"))
    assert not any(map(retried, (UserError("a wrong column"), DarecError("a damaged bundle"), ValueError("a bug"))))
    for step in (run_stage, prepared):
        assert (step.retries, step.retry_delay_seconds) == (3, [10, 20, 40])
        assert step.retry_condition_fn is is_transient
