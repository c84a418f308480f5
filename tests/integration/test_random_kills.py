"""Second and third runs on one store, killed -9 at random moments, with `darec status` beside them."""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from darec.artifacts.store import Store
from darec.common.recipes import load_recipe
from darec.text.generate import conversation_keys
from darec.text.models import models_root
from schemas.recipe import Recipe
from stages.plan import plan
from stages.walk import run
from tests.data import CHECKERBOARD, write_checkerboard
from tests.llm_stub import Stub, stub, well
from tests.nursery import Nursery
from tests.stores import ledger_keys

KILLS = int(os.environ.get("DAREC_KILLS", "8"))
"""In full: DAREC_KILLS=100 python -m pytest tests/integration/test_random_kills.py"""

KINDS = ("profile_items", "profile_users", "item_text", "embed", "graph", "train")
PROMPTS = Path("prompts").resolve()
pytestmark = pytest.mark.skipif(
    not (models_root() / "all-minilm-l6-v2").is_dir(), reason="the text encoder is not fetched: darec models fetch"
)


def slowly(request, handler) -> None:
    request["path"] = handler.path
    time.sleep(0.05)
    well(request, handler)


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A folder with data, prompts and a recipe, one finished run, and the server that answered it."""
    monkeypatch.setenv("DAREC_MODELS", str(models_root().resolve()))
    monkeypatch.chdir(tmp_path)
    write_checkerboard(tmp_path, users=24, items=16)
    shutil.copytree(PROMPTS, tmp_path / "prompts")
    with stub(slowly) as server:
        recipe = {
            "data": CHECKERBOARD,
            "split": {"k_core": 1},
            "llm": {"engine": "server", "server_url": server.url, "model": "stub", "concurrency": 4},
            "train": {"epochs": 12, "eval_every": 2, "dim": 8},
            "gate": {"minimums": {}, "tolerances": {}},
            "runtime": {"store": "store", "min_free_gb": 0.1},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        run(the_recipe())
        yield server


def the_recipe(*overrides: str) -> Recipe:
    return load_recipe(Path("recipe.yaml"), overrides)


def asked_keys(llm: Stub, path: str) -> Counter[str]:
    """How often each row was asked for under this path, by its key in the ledger."""
    recipe, keys = the_recipe(), Counter[str]()
    for request in [request for request in llm.asked if request.get("path", "").startswith(path)]:
        conversation = [tuple(request["messages"])]
        configs = (recipe.profile_items, recipe.profile_users)  # the same settings for both give the same key
        keys.update({key for config in configs for key in conversation_keys(conversation, recipe.llm, config)})
    return keys


def edit(number: int, kind: str) -> list[str]:
    """A day's change: a word in a prompt, or a setting of a later stage."""
    if kind in ("profile_items", "profile_users"):
        path = Path(getattr(the_recipe(), kind).prompt)
        path.write_text(path.read_text().replace("{% block user -%}", f"{{% block user -%}}Note {number}. ", 1))
    elif kind == "item_text":
        path = Path("prompts/item_text.j2")
        path.write_text(path.read_text().replace("{% block text -%}", f"{{% block text -%}}Note {number}: ", 1))
    settings = {
        "embed": f"embed.max_tokens={64 + number}",
        "graph": "graph.weighting=none",
        "train": f"train.seed={number}",
    }
    return [settings[kind]] if kind in settings else []


def test_random_kills_lose_no_row_ask_for_none_twice_and_every_resume_succeeds(llm: Stub) -> None:
    chance, kills, number, tries = random.Random(11), 0, 0, 0
    ledgers = sorted(Path("store/ledger").glob("*.sqlite"), key=lambda path: path.name != "profiles.sqlite")
    began = time.monotonic()
    run(the_recipe(*edit(0, "profile_items")))
    seconds = time.monotonic() - began
    with Nursery() as nursery, ThreadPoolExecutor(1) as beside:
        while kills < KILLS:
            number += 1
            overrides = edit(number, "profile_items" if number == 1 else chance.choice(KINDS))
            for _ in range(chance.randint(1, 3)):
                kept, tries = [ledger_keys(path) for path in ledgers], tries + 1
                status = beside.submit(plan, the_recipe(*overrides), Store(Path("store")))

                # The server may read requests of a killed run much later, so each run has a path of its own.
                settings, died = [*overrides, f"llm.server_url={llm.url}/try-{tries}/v1"], True
                if tries == 1:  # while it asks, however fast this machine is
                    nursery.run_and_kill_when(settings, lambda: "/try-1/" in llm.asked[-1].get("path", ""))
                else:
                    died = nursery.run_and_kill(settings, chance.uniform(0.02, seconds))
                assert status.result()[-1].task.name == "publish"
                for path, before in zip(ledgers, kept, strict=True):
                    assert set(before) <= set(ledger_keys(path)), "a row that was paid for is lost"
                again = asked_keys(llm, f"/v1/try-{tries}/")
                assert not set(again) & set(kept[0]), "a row that was paid for was asked for again"
                assert max(again.values(), default=0) <= 1
                kills += died
                if not died:
                    break

            results = run(the_recipe(*overrides))
            assert results[-1].state in ("published", "refused", "cached")
            assert all(artifact.damage(checksums=True) is None for artifact in Store(Path("store")).artifacts())
            assert all(step.state == "hit" for step in plan(the_recipe(*overrides), Store(Path("store"))))
