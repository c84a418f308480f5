"""The real vLLM with the real small model: answers, kills, and a server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from darec.models import models_root, resolve
from schemas import columns as c
from schemas.semantic import LLMConfig
from tests.integration.llm_rows import profile_task

ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@contextmanager
def process(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        running = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        try:
            yield running
        finally:
            left = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
            running.kill()
            running.wait()
            for child in left:  # vLLM's own server leaves its engine behind
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def test_a_killed_run_leaves_no_engine_and_the_next_goes_on_from_its_rows(tmp_path: Path) -> None:
    rows, ledger, log = 48, tmp_path / "ledger", tmp_path / "log"
    script = ("-m", "tests.integration.llm_rows", str(ledger), str(rows))
    with process(*script, log=log) as run:
        finished = wait_for(lambda: any((ledger / "profiles").glob("*.parquet")), 240)
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
    assert [
        child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
    ] == []


@pytest.mark.slow
def test_a_running_server_answers_the_same_way(tmp_path: Path) -> None:
    model = LLMConfig().model
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--model {resolve(model, root=models_root())} --served-model-name {model} --port {port} --max-model-len 512"
    )
    options += " --enforce-eager --dtype float32 --block-size 32"
    structured = ("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}')
    log, url = tmp_path / "log", f"http://127.0.0.1:{port}"
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    with process(
        "-m", "vllm.entrypoints.openai.api_server", *options.split(), *structured, log=log, **environment
    ) as server:
        assert wait_for(lambda: healthy(url) or server.poll() is not None, 300)
        assert server.poll() is None, log.read_text()[-3000:]
        task = profile_task(tmp_path / "ledger", engine="server", server_url=f"{url}/v1")
        profiles, report = task.run()
    assert profiles.height == 12
    assert report["from_metadata"] <= 3, report["causes"]
    assert report["output_tokens"] > 0


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
