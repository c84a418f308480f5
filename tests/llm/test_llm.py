"""The real vLLM with the real small model: answers, hostile texts, kills, and a server."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
import torch

from darec.artifacts.store import Store
from darec.common.errors import TransientError
from darec.text.generate import ENGINES
from darec.text.models import models_root
from darec.text.protocol import Engine, Request
from schemas import columns as c
from schemas.secret import SecretURL
from schemas.semantic import ItemProfileConfig, LLMConfig
from stages.prompts import run_trial
from tests.data import write_checkerboard
from tests.engines import ROOT, llm_server
from tests.injections import INJECTIONS
from tests.llm.rows import GENRES, TITLES, profile_task, task_of
from tests.llm_stub import stub, well
from tests.processes import free_port, wait_for
from tests.prompt_bench import bench_recipe
from tests.stores import ledger_keys

pytestmark = pytest.mark.skipif(
    not (models_root() / LLMConfig().model).is_dir(), reason="the LLM is not fetched: darec models fetch"
)
BYSTANDERS = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """vLLM's own server: its URL and its process, which the last test of this file kills."""
    port = free_port()
    with llm_server(port, tmp_path_factory.mktemp("server") / "log") as process:
        yield f"http://127.0.0.1:{port}/v1", process


@pytest.fixture
def server_url(server: tuple[str, subprocess.Popen[bytes]]) -> str:
    """The URL of the server."""
    return server[0]


def test_answers_of_a_sampling_engine_to_prompts_of_more_tokens_than_one_step(engine: Engine) -> None:
    """A prompt cut in two by the scheduler once ended the run where a generator was seeded: torch cannot rewind it."""
    text = "A long tale of a dog and a cat who travel far. " * 34
    requests = [Request(str(number), ({"role": "user", "content": text},), number, 0.7) for number in range(4)]
    schema = {"type": "object", "properties": {"profile": {"type": "string", "maxLength": 60}}}
    answers = [answer for chunk in engine.generate(requests, schema, 24) for answer in chunk]
    assert {answer.key for answer in answers} == {"0", "1", "2", "3"}
    assert all(answer.output_tokens > 0 for answer in answers)
    assert sum(answer.prompt_tokens for answer in answers) > 1024, "they fit into one step"
    assert len({answer.text for answer in answers}) > 1  # each has a separate seed


def test_bystanders_in_the_same_batch_are_answered_the_same_and_every_answer_keeps_to_its_form(
    tmp_path: Path, engine: Engine
) -> None:
    """Hostile item texts change nothing of what bystanders are told.

    On some processors the rounding of a product depends on its number of rows, so that any crowd changes answers. There
    a crowd of harmless titles has to change them too, and no word of the hostile texts may reach a bystander.
    """
    titles, genres, llm = list(TITLES[:BYSTANDERS]), list(GENRES[:BYSTANDERS]), LLMConfig(max_model_len=512)
    crowd = list(INJECTIONS.values())

    def told_with(name: str, others: list[str]) -> tuple[list[str], pl.DataFrame, dict[str, Any]]:
        answers, report = task_of(tmp_path / name, titles + others, genres + others, llm).run(engine=engine)
        return answers[c.PROFILE].head(BYSTANDERS).to_list(), answers, report

    alone, *_ = told_with("alone", [])
    bystanders, mixed, report = told_with("mixed", crowd)
    if bystanders != alone:
        harmless, *_ = told_with("harmless", [f"{title} part {part}" for part in range(2, 6) for title in TITLES])
        assert harmless != alone, "only the hostile crowd changes what bystanders are told"
        prompt = (ROOT / ItemProfileConfig().prompt).read_text()
        known = words(prompt, *titles, *genres, *alone, *harmless)
        assert not words(*bystanders) & (words(*crowd) - known)

    assert report["rows"] == mixed.height == BYSTANDERS + len(INJECTIONS)
    told = mixed.filter(pl.col(c.SOURCE) == "llm")[c.PROFILE]
    assert len(told) >= 0.8 * mixed.height, report["causes"]
    assert told.str.len_chars().is_between(8, ItemProfileConfig().max_chars).all()
    assert not mixed[c.PROFILE].str.contains(r"[\x00-\x1f<>|]").any()


def test_the_penalty_is_the_one_of_the_openai_protocol() -> None:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality

    from darec.text.penalty import ARGUMENT, FrequencyPenalty

    def params(penalty: float) -> SamplingParams:
        return SamplingParams(extra_args={ARGUMENT: penalty})

    logits, first, third = torch.randn(3, 7), [2, 5, 2], [0]
    penalty = FrequencyPenalty(cast("Any", None), torch.device("cpu"), is_pin_memory=False)
    added = [(0, params(0.5), None, first), (1, params(0.0), None, [6]), (2, params(2.0), None, third)]
    penalty.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
    third.append(4)  # the engine appends to the list that it gave
    expected = logits.clone()
    expected[0, 2] -= 1.0
    expected[0, 5] -= 0.5
    expected[2, [0, 4]] -= 2.0
    assert torch.allclose(penalty.apply(logits.clone()), expected)
    moved = [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]
    penalty.update_state(BatchUpdate(2, removed=[0], added=[], moved=moved))
    expected = logits.clone()
    expected[0, [0, 4]] -= 2.0
    assert torch.allclose(penalty.apply(logits.clone()), expected)


def words(*texts: str) -> set[str]:
    """The words of the texts in lower case."""
    return set(re.findall(r"\w{2,}", " ".join(texts).lower()))


@pytest.mark.slow
def test_a_server_refuses_a_prompt_that_does_not_fit_and_its_shorter_version_is_answered(
    tmp_path: Path, server_url: str
) -> None:
    common: dict[str, Any] = {"engine": "server", "server_url": SecretURL(server_url), "max_model_len": 512}
    llm = LLMConfig(**common, max_fallback_share=1.0)  # this model may well loop in Chinese
    long = task_of(tmp_path, ["天地玄黄宇宙洪荒" * 15], ["Drama"], llm)
    cut, report = long.run()
    assert report["failures"].get("too_long") == 1, "vLLM's own words for a prompt that does not fit"
    assert "too_long" not in report["causes"] and cut.height == 1


@pytest.mark.slow
def test_thirty_rows_of_a_new_prompt_are_tried_on_a_running_server(
    tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = str(ROOT / "prompts" / "item_profile.j2")
    write_checkerboard(tmp_path / "data", users=40, items=40)
    recipe = bench_recipe(tmp_path, server_url, model=LLMConfig().model, retries=2, max_fallback_share=1.0)
    store = Store(recipe.runtime.store)
    trial = run_trial(recipe, store, "profile_items", prompt, "30")
    assert len(trial.rows) == 30 and all(row.new.text for row in trial.rows)
    assert trial.report is not None and trial.report.generated == 30
    monkeypatch.setitem(ENGINES._factories, "server", lambda config: pytest.fail("a row was asked for again"))
    again = run_trial(recipe, store, "profile_items", prompt, "30")
    assert [row.new.text for row in again.rows] == [row.new.text for row in trial.rows]


@pytest.mark.slow
def test_a_server_killed_mid_batch_costs_no_finished_row_and_another_one_goes_on(
    tmp_path: Path, server: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, process = server
    rows, ledger = 16, tmp_path / "ledger"
    common: dict[str, Any] = {"engine": "server", "chunk": 8, "concurrency": 4, "retries": 1}
    task = profile_task(ledger, rows, server_url=url, **common)
    with ThreadPoolExecutor(1) as background:
        run = background.submit(task.run)
        assert wait_for(lambda: run.done() or len(ledger_keys(ledger / "profiles.sqlite")) > 0, 240)
        process.kill()
        with pytest.raises(TransientError, match="LLM server cannot be reached"):
            run.result(timeout=120)
    kept = ledger_keys(ledger / "profiles.sqlite")
    left = task.pending()
    assert 0 < left < rows and len(kept) == rows - left

    with stub(well) as other:
        profiles, report = profile_task(ledger, rows, server_url=other.url, **common).run()
    assert len(other.asked) == left
    assert (report["generated"], report["from_ledger"]) == (left, rows - left)
    assert len(ledger_keys(ledger / "profiles.sqlite")) == rows
    assert profiles.height == rows
    assert report["from_metadata"] <= rows // 4, report["causes"]
