"""Batches: sent once, read by whichever run comes after them, at a real server that speaks the protocol."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darec.artifacts.store import Store
from darec.common.errors import LimitError, TransientError, UserError
from darec.common.recipes import load_recipe
from darec.text import batches
from darec.text.budget import price
from schemas.recipe import Recipe
from schemas.semantic import LLMConfig
from stages.prompts import run_trial
from stages.walk import run
from tests.batch_stub import answered, batch_server
from tests.buckets import S3, configured
from tests.llm_stub import completion
from tests.processes import wait_for
from tests.prompt_bench import bench_recipe, bench_settings, template


def recipe_for_batches(folder: Path, url: str, **llm: Any) -> Recipe:
    options = {"batch_api": True, "batch_min_rows": 1, "batch_poll_seconds": 0.01, **llm}
    return bench_recipe(folder, url, **options)


def records(recipe: Recipe) -> list[Path]:
    return sorted((Store(recipe.runtime.store).ledger / "batches").glob("*"))


def test_a_stage_is_one_batch_and_no_live_request(tmp_path: Path) -> None:
    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url)
        report = run(recipe, "profile_items")[-1].report
        assert (report.rows, report.generated, report.from_metadata, report.tokens) == (24, 24, 0, 24 * 15)
        assert len(server.batches) == 1 and len(set(server.sent())) == 24 and not server.live
        assert records(recipe) == []
        [line, *_] = [json.loads(each) for each in server.files["file-0"].splitlines()]
        assert line["method"] == "POST" and line["url"] == "/v1/chat/completions" and line["body"]["model"] == "stub"


def test_a_run_that_has_waited_long_enough_leaves_the_batch_to_the_next(tmp_path: Path) -> None:
    with batch_server() as server:
        server.polls = 10**6
        recipe = recipe_for_batches(tmp_path, server.url, batch_hours=1e-5)
        for _ in range(2):
            with pytest.raises(LimitError, match=r"batch_0 of 24 rows has not ended.*not sent again"):
                run(recipe, "profile_items")
        server.polls = 0
        report = run(recipe, "profile_items")[-1].report
        assert report.generated == 24 and len(server.batches) == 1 and not server.live, "paid for once"
        assert records(recipe) == []


def test_a_batch_that_one_machine_sent_is_read_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3().served() as bucket, configured(bucket), batch_server() as server:
        server.polls = 10**6
        recipe = recipe_for_batches(tmp_path, server.url, batch_hours=1e-5)
        runtime = recipe.runtime.model_copy(update={"store": bucket.new_bucket()})
        recipe = recipe.model_copy(update={"runtime": runtime})
        monkeypatch.setenv("DAREC_CACHE", str(tmp_path / "a"))
        with pytest.raises(LimitError):
            run(recipe, "profile_items")

        server.polls = 0
        monkeypatch.setenv("DAREC_CACHE", str(tmp_path / "b"))
        report = run(recipe, "profile_items")[-1].report
        assert report.generated == 24 and len(server.batches) == 1 and not server.live, "paid for once"
        assert records(recipe) == []


def test_rows_that_a_batch_has_not_answered_are_sent_on_their_own(tmp_path: Path) -> None:
    def some(line: dict[str, Any]) -> dict[str, Any] | None:
        prompt = line["body"]["messages"][-1]["content"]
        if "Cellar 1;" in prompt:
            return None  # expired
        if "Cellar 3;" in prompt:
            return {"response": {"status_code": 500, "body": {"error": {"message": "failed"}}}}
        if "Cellar 5;" in prompt:
            return {"response": {"status_code": 200, "body": completion("not json")}}
        return answered(line)

    with batch_server() as server:
        server.answer, server.status = some, "expired"
        recipe = recipe_for_batches(tmp_path, server.url, batch_min_rows=20)
        report = run(recipe, "profile_items")[-1].report
        asked = sorted(request["messages"][-1]["content"].partition(";")[0] for request in server.live)
        assert asked == ["Haunted Cellar 1", "Haunted Cellar 3", "Haunted Cellar 5"]
        assert (report.generated, report.from_metadata, report.retried) == (24, 0, 1)
        assert len(server.batches) == 1, "the retry of one row is no batch"


def test_answers_of_a_batch_that_are_not_usable_are_not_paid_again_while_the_retries_wait(tmp_path: Path) -> None:
    def first(line: dict[str, Any]) -> dict[str, Any] | None:
        server.polls = 10**6  # the batch of the retries does not end
        if "Cellar 1" in line["body"]["messages"][-1]["content"]:
            return {"response": {"status_code": 200, "body": completion("not json")}}
        return answered(line)

    with batch_server() as server:
        server.answer, server.polls = first, 0
        recipe = recipe_for_batches(tmp_path, server.url, batch_hours=1e-5)
        for _ in range(2):
            with pytest.raises(LimitError, match=r"batch_1 of \d+ rows has not ended"):
                run(recipe, "profile_items")
        server.answer, server.polls = answered, 0
        report = run(recipe, "profile_items")[-1].report
        sizes = [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()]
        assert sizes == [24, report.retried] and not server.live
        assert report.from_metadata == 0 and report.tokens == 15 * report.retried


def test_all_rows_are_sent_before_the_first_batch_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a large table wait together, and none of them has to be in memory while the next one is sent."""
    monkeypatch.setattr(batches, "_MOST_ROWS", 10)
    with batch_server() as server:
        looks: list[int] = []
        plain = server.look
        monkeypatch.setattr(server, "look", lambda batch: looks.append(len(server.batches)) or plain(batch))
        recipe = recipe_for_batches(tmp_path, server.url, batch_min_rows=24)
        report = run(recipe, "profile_items")[-1].report
        sizes = [len(body.splitlines()) for name, body in server.files.items() if name.startswith("file-")]
    assert report.generated == 24 and len(server.batches) == 3 and not server.live
    assert set(looks) == {3} and sizes[:3] == [10, 10, 4]


def test_few_rows_and_a_trial_are_no_batch(tmp_path: Path) -> None:
    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url, batch_min_rows=25)
        run_trial(recipe, Store(recipe.runtime.store), "profile_items", template(tmp_path / "new.j2"), "5")
        run(recipe, "profile_items")
        assert not server.batches and len(server.live) == 24, "the five rows that were tried are known"


@pytest.mark.parametrize("lost", ["the answer to the batch", "the record of its id"])
def test_a_batch_that_the_server_took_is_found_by_its_name(tmp_path: Path, lost: str) -> None:
    with batch_server() as server:
        server.create({"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "none"})
        server.polls = 10**6
        recipe = recipe_for_batches(tmp_path, server.url, batch_hours=1e-5)
        if lost == "the answer to the batch":
            server.lose_next_answer = True
            with pytest.raises(TransientError, match="cannot be reached"):
                run(recipe, "profile_items")
        else:
            with pytest.raises(LimitError):
                run(recipe, "profile_items")
            [path] = records(recipe)
            path.write_text(json.dumps(json.loads(path.read_text()) | {"batch": None}))
        del server.batches["batch_0"]
        server.polls = 0
        assert run(recipe, "profile_items")[-1].report.generated == 24
        assert list(server.batches) == ["batch_1"] and not server.live


@pytest.mark.parametrize("created", [True, False])
def test_a_batch_whose_response_was_lost_is_looked_up_before_it_is_sent_again(
    tmp_path: Path, created: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_FIRST_PAUSE", 0.01)
    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url, retries=1)
        server.status = "failed"
        with pytest.raises(UserError, match="refuses the batch"):  # its name is that of the next batch
            run(recipe, "profile_items")
        server.status = "completed"
        if created:
            server.lose_next_answer = True
        else:
            server.fail_batches = [503]
        assert run(recipe, "profile_items")[-1].report.generated == 24
        assert list(server.batches) == ["batch_0", "batch_1"] and not server.live, "no row is paid for twice"


def test_a_batch_that_the_server_has_lost_is_sent_again(tmp_path: Path) -> None:
    with batch_server() as server:
        server.polls = 10**6
        recipe = recipe_for_batches(tmp_path, server.url, batch_hours=1e-5)
        with pytest.raises(LimitError):
            run(recipe, "profile_items")
        server.batches.clear()
        server.polls = 0
        assert run(recipe, "profile_items")[-1].report.generated == 24 and len(server.batches) == 1


def test_a_refused_batch_a_server_without_batches_and_a_failing_one(tmp_path: Path) -> None:
    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url)
        server.fail_calls = [404]
        with pytest.raises(UserError, match="has no /files.*llm.batch_api to false"):
            run(recipe, "profile_items")
        server.fail_calls = [503]
        with pytest.raises(TransientError, match="status 503: .*busy"):
            run(recipe, "profile_items")
        server.status = "failed"
        with pytest.raises(UserError, match="refuses the batch: line 1 is not valid.*fix the cause and run again"):
            run(recipe, "profile_items")
        assert records(recipe) == []
        server.status = "completed"
        assert run(recipe, "profile_items")[-1].report.generated == 24, "a refused batch is sent again"


def test_a_batch_whose_answers_the_server_has_deleted_is_sent_again(tmp_path: Path) -> None:
    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url)
        server.missing.add("file-batch_0-output_file_id")
        with pytest.raises(UserError, match="has no /files/file-batch_0"):
            run(recipe, "profile_items")
        assert run(recipe, "profile_items")[-1].report.generated == 24 and len(server.batches) == 2


@pytest.mark.parametrize(("status", "code"), [(429, "insufficient_quota"), (401, "invalid_api_key"), (404, "model")])
def test_a_line_that_the_key_or_the_quota_failed_costs_no_other_line(tmp_path: Path, status: int, code: str) -> None:
    def some(line: dict[str, Any]) -> dict[str, Any] | None:
        if "Cellar 5;" in line["body"]["messages"][-1]["content"]:
            return {"response": {"status_code": status, "body": {"error": {"code": code, "message": "no"}}}}
        return answered(line)

    with batch_server() as server:
        recipe = recipe_for_batches(tmp_path, server.url)
        server.answer = some
        report = run(recipe, "profile_items")[-1].report
        assert (report.generated, report.from_metadata) == (24, 0)
        assert len(server.batches) == 1 and len(server.live) == 1


def test_a_killed_run_does_not_pay_twice(tmp_path: Path) -> None:
    with batch_server() as server:
        server.polls = 10**6
        recipe = recipe_for_batches(tmp_path, server.url)
        options = {"batch_api": True, "batch_min_rows": 1, "batch_poll_seconds": 0.01}
        settings = bench_settings(tmp_path, server.url, **options)
        command = [Path(sys.executable).with_name("darec"), "run", "--until", "profile_items"]
        command += ["--recipe", str(tmp_path / "store.yaml")]
        command += [part for each in settings for part in ("--set", each)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            found = wait_for(lambda: any(batch["looks"] > 3 for batch in server.batches.values()))
            os.kill(running.pid, signal.SIGKILL)
        assert found and len(records(recipe)) == 1
        server.polls = 0
        assert run(recipe, "profile_items")[-1].report.generated == 24
        assert len(server.batches) == 1 and not server.live


def test_batches_have_their_price_and_need_a_server() -> None:
    llm = LLMConfig(engine="server", batch_api=True, price_per_million_input=2.0)
    assert price(llm, 1_000_000, 0) == 1.0
    with pytest.raises(UserError, match="llm.batch_api: only a server answers batches"):
        load_recipe(None, ["llm.batch_api=true"])
