"""`darec serve` as a real process: answers, errors, and a release that takes over under load."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import polars as pl
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.recipes import load_recipe
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.recommend import recommend, recommend_histories, similar
from darec.serving.releases import Releases
from pipelines import serving
from pipelines.cli import app
from schemas.rules import RulesConfig
from stages.walk import run
from tests.processes import free_port, healthy, listens, wait_for
from tests.release_samples import GATE, contents, export
from tests.stores import recipe_for

get = partial(httpx.get, timeout=120)  # on a busy machine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    run(load_recipe(recipe_for(folder, folder / "store")))
    return folder / "store"


@contextmanager
def served(store: Path) -> Iterator[str]:
    port = free_port()
    recipe, stock = str(store.parent / "store.yaml"), store.parent / "stock.txt"
    stock.write_text("\n".join(Bundle.open(store / "current").items["item_id"]))
    command = [str(Path(sys.executable).parent / "darec"), "serve", "--port", str(port), "--refresh", "0.1"]
    command += ["--set", f"rules.in_stock={stock}"]
    with (store.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen([*command, "--recipe", recipe], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            assert wait_for(lambda: process.poll() is not None or healthy(url)), (
                store.parent / "serve.log"
            ).read_text()
            yield url
        finally:
            process.terminate()
            assert process.wait(120) in (0, -15)


def test_answers_are_those_of_the_library_and_faults_have_a_status(store: Path):
    bundle, current = Bundle.open(store / "current"), Releases(store).current()
    user, item = bundle.user_ids()[0], bundle.items["item_id"][0]
    assert current is not None
    with served(store) as url:
        found = get(f"{url}/recommend", params={"user": user, "k": 3}).json()
        current = Releases(store).current()
        assert current is not None and found["release"] == current.id
        assert [row["item_id"] for row in found["users"][user]] == recommend(bundle, user, 3)["item_id"].to_list()
        first = found["users"][user][0]["item_id"]
        others = get(f"{url}/recommend", params={"user": user, "k": 3, "block": first}).json()["users"][user]
        assert first not in [row["item_id"] for row in others] and len(others) == 3
        history = ",".join(bundle.items["item_id"].head(2))
        asked = {"user": user, "history": [history, item], "k": 3}
        both = get(f"{url}/recommend", params=asked, timeout=120).json()  # the first history loads PyTorch
        expected = recommend_histories(bundle, [history.split(","), [item]], 3)
        for number in range(2):
            items = [row["item_id"] for row in both["histories"][number]]
            assert items == expected.filter(history=number)["item_id"].to_list() and len(items) == 3
        stranger = get(f"{url}/recommend", params={"history": "no such item"})
        assert stranger.status_code == 404 and "is not in the release" in stranger.json()["error"]
        arrivals = {"user": user, "only_new": True, "new_up_to": 10**6, "k": 3}
        assert get(f"{url}/recommend", params=arrivals).json()["users"] == found["users"]
        mixed = get(f"{url}/recommend", params={"user": user, "new_share": 0.5, "min_diversity": 0.1})
        assert mixed.status_code == 422 and "cannot be combined" in mixed.json()["error"]
        odd = get(f"{url}/recommend", params={"user": user, "category": "nonsense"})
        assert odd.status_code == 422 and "does not say NAME=VALUE" in odd.json()["error"]
        near = get(f"{url}/similar", params={"item": item, "k": 3}).json()
        assert [row["item_id"] for row in near["items"]] == similar(bundle, item, 3)["item_id"].to_list()
        nearest = near["items"][0]["item_id"]
        others = get(f"{url}/similar", params={"item": item, "k": 3, "block": nearest}).json()["items"]
        assert [row["item_id"] for row in others[:2]] == [row["item_id"] for row in near["items"][1:]]
        unknown = get(f"{url}/recommend", params={"user": "nobody"})
        assert unknown.status_code == 404 and "is not in the release" in unknown.json()["error"]
        assert str(store) not in unknown.text, "clients do not see paths of the machine"
        missing = get(f"{url}/recommend", params={"user": user, "category": "colour=red"})
        assert missing.status_code == 422 and "does not have the attribute" in missing.json()["error"]
        (store.parent / "stock.txt").unlink()
        assert get(f"{url}/recommend", params={"user": user}).status_code == 503, "the recipe's file, not the client's"
        (store.parent / "stock.txt").write_text("\n".join(bundle.items["item_id"]))
        for path, asked, said in (
            ("recommend", {"user": user, "k": 0}, "k: Input should be greater than or equal to 1 -> "),
            ("recommend", {"user": user, "seen": "perhaps"}, "seen: Input should be a valid boolean"),
            ("similar", {}, "item: Field required"),
        ):
            refused = get(f"{url}/{path}", params=asked)
            assert refused.status_code == 422 and set(refused.json()) == {"error"}
            assert refused.json()["error"].startswith(said)
        described = get(f"{url}/openapi.json").json()["components"]["schemas"]
        assert "Failure" in described and "HTTPValidationError" not in described
        assert get(f"{url}/recommend").status_code == 422
        for path, asked in (("recommend", {"user": user, "blocked": first}), ("similar", {"item": item, "seen": "1"})):
            misspelt = get(f"{url}/{path}", params=asked)
            assert misspelt.status_code == 422 and "there is no parameter" in misspelt.json()["error"]
        assert get(f"{url}/made-up").json() == {"error": "Not Found"}
        metrics = get(f"{url}/metrics").text
        counts = {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(metrics)
            for sample in family.samples
            if sample.name == "darec_requests_total"
        }
        assert counts["/recommend", "404"] == 2 and counts["other", "404"] == 1
        assert "darec_release_since_timestamp_seconds" in metrics


def test_an_unexpected_error_is_answered_as_all_others_are_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(*_: object) -> None:
        raise RuntimeError(f"a fault in {tmp_path}")

    Releases(tmp_path).publish(export(Store(tmp_path), contents()).path, GATE)
    logger = logging.getLogger(serving.__name__)
    logger.addHandler(caplog.handler)
    with TestClient(serving.make_app(tmp_path, lambda **_: RulesConfig()), raise_server_exceptions=False) as client:
        monkeypatch.setattr(serving, "similar", fails)
        answer = client.get("/similar", params={"item": "i0"})
        counted = client.get("/metrics").text
        assert client.get("/recommend", params={"user": "u0"}).status_code == 200
    logger.removeHandler(caplog.handler)
    assert answer.status_code == 500 and set(answer.json()) == {"error"}
    assert "the log of the server" in answer.json()["error"] and str(tmp_path) not in answer.text
    assert 'darec_requests_total{path="/similar",status="500"} 1.0' in counted
    assert f"RuntimeError: a fault in {tmp_path}" in caplog.text


def test_nothing_is_similar_to_an_item_whose_vector_is_zero(tmp_path: Path) -> None:
    sample = contents()
    vectors = vectors_of(sample.items).copy()
    vectors[0] = 0
    items = sample.items.with_columns(
        vector=pl.Series(vectors, dtype=sample.items.schema["vector"]),
        train_count=pl.when(pl.col("item_id") == "i0").then(0).otherwise("train_count").cast(pl.Int32),
    )
    Releases(tmp_path).publish(export(Store(tmp_path), replace(sample, items=items)).path, GATE)
    with TestClient(serving.make_app(tmp_path, lambda **_: RulesConfig())) as client:
        answer = client.get("/similar", params={"item": "i0"})
        assert client.get("/health").status_code == 200, "the first item is the one that warms up the release"
        others = client.get("/similar", params={"item": "i1", "k": 1000}).json()["items"]
    assert answer.status_code == 404 and "a vector of zeros" in answer.json()["error"]
    assert len(others) == len(items) - 1


def test_a_new_release_takes_over_under_load_without_one_failed_request(store: Path):
    users = Bundle.open(store / "current").user_ids().to_list()
    statuses: list[int] = []
    releases: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            for number in iter(lambda: len(statuses), -1):
                if ended.is_set():
                    return
                answer = client.get(f"{url}/recommend", params={"user": users[number % len(users)]})
                statuses.append(answer.status_code)
                releases.append(answer.json()["release"])

    before = Releases(store).current()
    with served(store) as url:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: len(statuses) > 50)
        run(load_recipe(store.parent / "store.yaml", ["train.seed=7", "gate.tolerances={}"]))
        after = Releases(store).current()
        assert before is not None and after is not None and before.id != after.id
        assert wait_for(lambda: releases[-1] == after.id)
        Releases(store).rollback("test", "back under load")
        assert wait_for(lambda: releases[-1] == before.id)
        again = CliRunner().invoke(app, ["serve", "--recipe", str(store.parent / "store.yaml"), "--port", url[-5:]])
        assert isinstance(again.exception, UserError) and "choose another --port" in again.exception.hint
        ended.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200} and len(statuses) > 100
    assert set(releases) == {before.id, after.id}
    told = [line for line in (store.parent / "serve.log").read_text().splitlines() if line.startswith("serving")]
    assert told == [f"serving release {name}" for name in (before.id, after.id, before.id)]


def test_a_release_that_cannot_be_opened_leaves_the_old_one_answering(store: Path):
    user = Bundle.open(store / "current").user_ids()[0]
    link = store / "current"
    good = link.readlink()
    with served(store) as url:
        link.unlink()
        link.symlink_to("artifacts/export/none")
        assert wait_for(lambda: get(f"{url}/health").json()["trouble"] is not None)
        assert get(f"{url}/recommend", params={"user": user}).status_code == 200
        link.unlink()
        link.symlink_to(good)
        assert wait_for(lambda: get(f"{url}/health").json()["trouble"] is None)


def test_a_store_without_a_release_says_so_until_there_is_one(tmp_path: Path):
    recipe_for(tmp_path, tmp_path / "store")
    (tmp_path / "store").mkdir()
    port = free_port()
    command = [str(Path(sys.executable).parent / "darec"), "serve", "--port", str(port), "--refresh", "0.1"]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, "--recipe", str(tmp_path / "store.yaml")], stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_for(lambda: listens(port))
        answer = get(f"{url}/health")
        assert answer.status_code == 503 and "nothing has been published yet" in answer.json()["trouble"]
        refused = get(f"{url}/recommend", params={"user": "u1"})
        assert refused.status_code == 503 and "darec run" in refused.json()["error"]
        assert str(tmp_path) not in answer.text + refused.text, "clients do not see paths of the machine"
        logged = (tmp_path / "log.txt").read_text()
        assert logged.count("nothing has been published yet") == 1, "not once for each request"
        run(load_recipe(tmp_path / "store.yaml"))
        assert wait_for(lambda: healthy(url))
    finally:
        process.terminate()
        process.wait(120)
