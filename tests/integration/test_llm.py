"""The real vLLM with the real small model: answers, kills, and a server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch

from darec.artifacts.store import Store
from darec.common.errors import TransientError
from darec.text.generate import open_engine
from darec.text.models import models_root, resolve
from darec.text.protocol import Request
from schemas import columns as c
from schemas.semantic import LLMConfig
from stages.prompts import run_trial
from tests.data import write_checkerboard
from tests.integration.llm_rows import profile_task, task_of
from tests.processes import free_port, healthy, wait_for
from tests.prompt_bench import bench_recipe
from tests.stores import ledger_keys

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        running = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            process_group=0,
        )
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # vLLM's own server, if killed alone, leaves its engine behind
            running.wait()


def test_a_killed_run_leaves_no_engine_and_the_next_goes_on_from_its_rows(tmp_path: Path) -> None:
    rows, ledger, log = 48, tmp_path / "ledger", tmp_path / "log"
    script = ("-m", "tests.integration.llm_rows", str(ledger), str(rows))
    with process(*script, log=log) as run:
        finished = wait_for(lambda: len(ledger_keys(ledger / "profiles.sqlite")) > 0, 240)
        assert finished, log.read_text()[-2000:]
        engines = psutil.Process(run.pid).children(recursive=True)
        assert engines
        os.kill(run.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(engines, timeout=20)
    assert alive == []
    task = profile_task(ledger, rows)
    left = task.pending()
    assert 0 < left < rows
    profiles, report = task.run()
    assert report["generated"] == left
    assert profiles.height == rows
    assert task.pending() == 0
    assert report["from_metadata"] <= rows // 4, report["causes"]
    assert profiles[c.PROFILE].str.len_chars().is_between(8, 120).all()
    assert _engines_of_this_process() == []


def _engines_of_this_process() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended in between; so has a zombie
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def test_answers_of_a_sampling_engine_to_prompts_of_more_tokens_than_one_step(tmp_path: Path) -> None:
    """A prompt cut in two by the scheduler once ended the run where a generator was seeded: torch cannot rewind it."""
    text = "A long tale of a dog and a cat who travel far. " * 40
    requests = [Request(str(number), ({"role": "user", "content": text},), number, 0.7) for number in range(4)]
    config = LLMConfig(workers=1, frequency_penalty=2.0)
    schema = {"type": "object", "properties": {"profile": {"type": "string", "maxLength": 60}}}
    with open_engine(config) as engine:
        answers = [answer for chunk in engine.generate(requests, schema, 24) for answer in chunk]
    assert {answer.key for answer in answers} == {"0", "1", "2", "3"}
    assert all(answer.output_tokens > 0 for answer in answers)
    assert len({answer.text for answer in answers}) > 1  # each has a separate seed


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


@contextmanager
def llm_server(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """vLLM's own server with the small model, ready to answer."""
    model = LLMConfig().model
    options = f"--model {resolve(model, root=models_root())} --served-model-name {model} --port {port}"
    options += " --max-model-len 512 --enforce-eager --dtype float32 --block-size 32"
    structured = ("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}')
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    command = ("-m", "vllm.entrypoints.openai.api_server", *options.split(), *structured)
    with process(*command, log=log, **environment) as server:
        assert wait_for(lambda: healthy(f"http://127.0.0.1:{port}") or server.poll() is not None, 300)
        assert server.poll() is None, log.read_text()[-3000:]
        yield server


@pytest.mark.slow
def test_a_server_killed_mid_batch_costs_no_finished_row_and_a_new_one_goes_on(tmp_path: Path) -> None:
    rows, ledger = 24, tmp_path / "ledger"
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    task = profile_task(ledger, rows, engine="server", server_url=url, chunk=8, concurrency=4, retries=1)
    with llm_server(port, tmp_path / "first.log") as server, ThreadPoolExecutor(1) as background:
        run = background.submit(task.run)
        assert wait_for(lambda: run.done() or len(ledger_keys(ledger / "profiles.sqlite")) > 0, 240)
        server.kill()
        with pytest.raises(TransientError, match="LLM server cannot be reached"):
            run.result(timeout=120)
    kept = ledger_keys(ledger / "profiles.sqlite")
    left = task.pending()
    assert 0 < left < rows and len(kept) == rows - left
    with llm_server(port, tmp_path / "second.log"):
        profiles, report = task.run()
        one_row = task.llm.model_copy(update={"max_fallback_share": 1.0})  # this model may well loop in Chinese
        long = task_of(tmp_path / "long", ["天地玄黄宇宙洪荒" * 15], ["Drama"], one_row)
        cut, cut_report = long.run()
    assert cut_report["failures"].get("too_long") == 1, "vLLM's own words for a prompt that does not fit"
    assert "too_long" not in cut_report["causes"] and cut.height == 1
    assert (report["generated"], report["from_ledger"]) == (left, rows - left)
    assert len(ledger_keys(ledger / "profiles.sqlite")) == rows
    assert profiles.height == rows
    assert report["from_metadata"] <= rows // 4, report["causes"]


@pytest.mark.slow
def test_thirty_rows_of_a_new_prompt_are_tried_on_a_running_server(tmp_path: Path) -> None:
    port, prompt = free_port(), str(ROOT / "prompts" / "item_profile.j2")
    write_checkerboard(tmp_path / "data", users=40, items=40)
    with llm_server(port, tmp_path / "log"):
        url = f"http://127.0.0.1:{port}/v1"
        recipe = bench_recipe(tmp_path, url, model=LLMConfig().model, retries=2, max_fallback_share=1.0)
        store = Store(recipe.runtime.store)
        trial = run_trial(recipe, store, "profile_items", prompt, "30")
    assert len(trial.rows) == 30 and all(row.new.text for row in trial.rows)
    assert trial.report is not None and trial.report.generated == 30
    again = run_trial(recipe, store, "profile_items", prompt, "30")  # the server is gone
    assert [row.new.text for row in again.rows] == [row.new.text for row in trial.rows]
