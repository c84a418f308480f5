"""The real small LLM: runs that share one engine, and vLLM's own server."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from darec.common.recipes import load_recipe
from darec.text.engine import OfflineEngine
from darec.text.generate import ENGINES
from darec.text.models import models_root, resolve
from darec.text.protocol import Answer, Request
from schemas.recipe import Recipe
from schemas.semantic import LLMConfig
from stages.walk import run
from tests.data import CHECKERBOARD
from tests.processes import healthy, wait_for

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT / "prompts"
_SECTIONS = {
    "data": CHECKERBOARD,
    "split": {"k_core": 1},
    "llm": {"workers": 1, "dtype": "float32", "max_model_len": 512},
    "gate": {"minimums": {}, "tolerances": {}},
    "runtime": {"store": "store", "min_free_gb": 0.1},
}


class KeptOpen:
    """An engine that stays open when a run is over."""

    def __init__(self, engine: OfflineEngine) -> None:
        self._engine = engine

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """The answers of the engine."""
        return self._engine.generate(requests, schema, max_tokens)

    def close(self) -> None:
        """Does nothing."""


@contextmanager
def finished_run(folder: Path, sections: dict[str, Any], engine: OfflineEngine) -> Iterator[Path]:
    """`folder`, which has the data, with prompts of its own, `recipe.yaml` and one finished run.

    It is the working directory until the context ends, and all runs of this process use `engine` until then.
    """
    shutil.copytree(PROMPTS, folder / "prompts")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(_SECTIONS | sections))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAREC_MODELS", str(models_root().resolve()))
        patch.chdir(folder)
        patch.setitem(ENGINES._factories, "offline", lambda config: KeptOpen(engine))
        run(the_recipe())
        yield folder


def the_recipe(*overrides: str) -> Recipe:
    """The recipe in the working directory."""
    return load_recipe(Path("recipe.yaml"), overrides)


@contextmanager
def process(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process in a group of its own, which is killed at the end."""
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
