"""The engine `ray` on a real Ray cluster of two machines in this one, with models that take no memory.

`FixedLatency` stands in for vLLM: two actors on two cores of a shared machine would measure the machine.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from darec.common.errors import DarecError, TransientError, UserError
from darec.text import ray_engine
from darec.text.protocol import Request
from darec.text.ray_engine import RayEngine
from schemas.semantic import EmbedConfig, LLMConfig
from tests.processes import short_folder
from tests.ray_models import Deadly, FixedLatency, Unloadable
from tests.unit.test_server import TITLES, task

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A machine with one core, without dashboard; tests add a second one."""
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other processes of this machine may fill its memory
        made = cluster_utils.Cluster(initialize_head=True, head_node_args=MACHINE)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def connected(cluster: Any) -> Iterator[None]:
    """This process takes part in the cluster already, as a program that uses Ray itself."""
    if not ray.is_initialized():
        ray.init(cluster.address, log_to_driver=False)
    yield


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_LOOK", 0.2)


def requests(count: int) -> list[Request]:
    return [Request(f"r{n:03d}", ({"role": "user", "content": f"film {n}"},), n, 0.0) for n in range(count)]


def begun(folder: Path) -> list[Counter[str]]:
    """How often each row was begun, by each actor."""
    return [Counter(path.read_text().split()) for path in sorted(folder.glob("*.begun"))]


def paces(folder: Path, since: float) -> list[list[float]]:
    """The pauses between the chunks that each actor has begun since a moment, in seconds."""
    times = [map(float, path.read_text().split()) for path in sorted(folder.glob("*.times"))]
    return [[later - earlier for earlier, later in pairwise(t for t in each if t >= since)] for each in times]


def test_two_machines_answer_twice_as_much_as_one_and_rows_of_a_killed_actor_are_asked_again(cluster, tmp_path):
    config, work = LLMConfig(engine="ray", chunk=2), requests(800)
    answered, rates, killed = list[str](), dict[int, float](), False
    with closing(RayEngine(config, partial(FixedLatency, tmp_path, 0.3))) as engine:
        since, actors = 0.0, 0
        for answers in engine.generate(work, {}, 40):
            answered += [answer.key for answer in answers]
            if len(begun(tmp_path)) != actors:
                since, actors = time.monotonic(), len(begun(tmp_path))
            elif actors not in rates and min(map(len, measured := paces(tmp_path, since))) >= 8:
                # By the median, a moment in which this machine is busy does not count.
                rates[actors] = sum(1 / median(pauses) for pauses in measured)
                if actors == 1:
                    cluster.add_node(num_cpus=1, object_store_memory=MACHINE["object_store_memory"])
                else:
                    ray.kill(next(iter(engine._load)))
                    killed = True
            if killed and actors == 3:
                break

        assert rates[2] >= 1.8 * rates[1], "with models that take the same time for every chunk"

        # What was begun when the caller stopped is not waited for, and the next call has all actors.
        rest = [request for request in work if request.key not in answered][:20]
        answered += [answer.key for answers in engine.generate(rest, {}, 40) for answer in answers]
    assert {request.key for request in rest} <= set(answered) and len(answered) == len(set(answered))
    times_begun = sum(begun(tmp_path), Counter())
    stopped = 2 * config.chunk * 2  # at two actors, one that is answered and one that waits
    assert sum(count > 1 for count in times_begun.values()) <= config.chunk + stopped


def test_profiles_land_in_the_ledger_under_the_keys_of_the_offline_engine(connected, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    url = "http://127.0.0.1:1/v1"
    work = task(tmp_path, url, engine="ray", model=LLMConfig().model)
    with closing(RayEngine(work.llm, partial(FixedLatency, tmp_path, 0.0))) as engine:
        profiles, report = work.run(engine=engine)
    assert profiles["profile"].to_list() == [f'a profile of "{title}"' for title in TITLES]
    assert (report["generated"], report["prompt_tokens"]) == (4, 40)
    assert task(tmp_path, url, engine="offline", model=LLMConfig().model).pending() == 0


def test_vectors_come_from_actors_too(connected, tmp_path):
    texts = ["a" * length for length in range(1, 31)]
    with closing(RayEngine(EmbedConfig(engine="ray", chunk=4), partial(FixedLatency, tmp_path, 0.0))) as engine:
        found = dict(engine.embed(texts))
    assert [length for start in sorted(found) for length in found[start][:, 0]] == list(range(1, 31))


def test_rows_that_kill_every_actor_end_the_run_and_cost_no_other(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_MOST_DEATHS", 2)
    work = requests(6)
    work[3] = Request("poison", work[3].messages, 0, 0.0)
    with closing(RayEngine(LLMConfig(engine="ray", chunk=1), partial(Deadly, tmp_path, 0.0))) as engine:
        given = list[str]()
        with pytest.raises(DarecError, match="2 Ray actors died over the same rows"):
            for answers in engine.generate(work, {}, 40):
                given += [answer.key for answer in answers]
    assert {"r000", "r001", "r002"} <= set(given) and "poison" not in given


def test_a_model_that_cannot_be_loaded_is_told_as_it_is(connected, tmp_path):
    with (
        closing(RayEngine(LLMConfig(engine="ray"), partial(Unloadable, tmp_path, 0.0))) as engine,
        pytest.raises(UserError, match="cannot be loaded.*take another"),
    ):
        list(engine.generate(requests(3), {}, 40))


def test_a_cluster_without_room_is_told(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_LONGEST_WAIT", 0.1)
    config = LLMConfig.model_validate({"engine": "ray", "ray": {"cpus": 64}})
    with (
        closing(RayEngine(config, partial(FixedLatency, tmp_path, 0.0))) as engine,
        pytest.raises(TransientError, match="no machine of the Ray cluster has 64 CPUs and 0 GPUs"),
    ):
        list(engine.generate(requests(1), {}, 40))


def test_an_actor_with_another_model_of_the_same_name_answers_nothing(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "identity", lambda model, revision: "another")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    with (
        closing(RayEngine(LLMConfig(engine="ray", model=str(model)))) as engine,
        pytest.raises(UserError, match="another model of the same name"),
    ):
        list(engine.generate(requests(1), {}, 40))


def test_a_cluster_that_refuses_this_machine_is_the_users_to_fix(monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise ray.exceptions.AuthenticationError("no authentication token was found")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="refuses this machine: no authentication token.*copy ~/.ray/auth_token"):
        RayEngine(LLMConfig(engine="ray"))
