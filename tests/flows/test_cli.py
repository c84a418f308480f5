"""The command line as a user meets it: real processes, Prefect's temporary API, no LLM.

Whole runs and the checks of the machine are commands as a shell starts them, the others forks of a process that has
imported everything.
"""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from darec.text.models import models_root
from tests.buckets import S3
from tests.data import write_checkerboard
from tests.nursery import Commands
from tests.processes import free_port, unconfigured

DAREC = Path(sys.executable).with_name("darec")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_checkerboard(folder)
    recipe = {
        "data": {
            "source": "csv",
            "interactions": "interactions.csv",
            "items": "items.csv",
            "interaction_columns": {"timestamp": "timestamp", "split": "split"},
        },
        "split": {"strategy": "column"},
        "train": {"alignment": [], "epochs": 60},
        "runtime": {"store": "store", "min_free_gb": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def environment(folder: Path) -> dict[str, str]:
    variables = {"PREFECT_HOME": str(folder / "prefect"), "DAREC_RECIPE": "recipe.yaml", "COLUMNS": "200"}
    return unconfigured() | variables | {"DAREC_MODELS": str(models_root().resolve())}


def shell(folder: Path, *arguments: str, **variables: str) -> str:
    """What a command printed that was started as a shell does."""
    command, known = [DAREC, *arguments], environment(folder) | variables
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def darec(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Runs a command that ends with the exit code `code`: what it printed, or its errors."""
    with Commands(folder, environment(folder), tmp_path_factory.mktemp("outputs")) as commands:

        def call(*arguments: str, code: int = 0) -> str:
            done = commands.call(*arguments)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout if code == 0 else done.stderr

        yield call


def run_states(output: str) -> dict[str, str]:
    """The outcome of each stage in the last table of a run."""
    table = output[output.rindex("Run") :]
    return dict(re.findall(r"^ ?(\w+) +(cached|done|published|refused)\b", table, re.MULTILINE))


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    return shell(folder, "run")


def test_the_first_run_publishes(folder: Path, first: str) -> None:
    assert (folder / "store" / "current" / "items.faiss").is_file()
    assert "error" not in first.lower()


def test_the_second_run_only_verifies(folder: Path, first: str) -> None:
    output = shell(folder, "run")
    states = run_states(output)
    assert states.keys() >= {"ingest", "split", "graph", "train", "evaluate", "export", "publish"}
    assert set(states.values()) == {"cached"}


def test_the_flow_of_prefect_gives_the_same_as_the_run_without(folder: Path, first: str) -> None:
    """The flow with a temporary server takes the same walk: everything is a hit but what is forced, wherever the log
    is, here in a bucket."""
    with S3().served() as server:
        log = server.put(server.new_bucket(), "interactions.csv", (folder / "interactions.csv").read_bytes())
        options = ["--prefect", "--force", "graph", "--set", f"data.interactions={log}"]
        forced = run_states(shell(folder, "run", *options, **server.environment()))
        assert [name.rpartition("/")[2] for name in server.sent] == ["interactions.csv"]
    assert forced.pop("graph") == "done" and set(forced.values()) == {"cached"}


def test_output_without_a_terminal_is_plain_lines(darec: Callable[..., str], first: str) -> None:
    output = darec("run", "--force", "train")
    assert "\x1b" not in output and "┃" not in output and "\n\n\n" not in output


def test_only_unseen_items_are_recommended_best_first(darec: Callable[..., str], first: str) -> None:
    """Each user has seen all items of its own parity, which the model ranks first: they must not come again."""
    answer = json.loads(darec("recommend", "--user", "u000", "--user", "u001", "-k", "3", "--json"))
    places = [(row["user_id"], row["rank"]) for row in answer]
    assert places == [(user, rank) for user in ("u000", "u001") for rank in (1, 2, 3)]
    assert all(int(row["item_id"][1:]) % 2 != int(row["user_id"][1:]) % 2 for row in answer)
    scores = [row["score"] for row in answer]
    assert scores[:3] == sorted(scores[:3], reverse=True) and scores[3:] == sorted(scores[3:], reverse=True)


def test_similar_items_are_of_the_same_kind(darec: Callable[..., str], first: str) -> None:
    answer = json.loads(darec("similar", "--item", "i002", "-k", "5", "--json"))
    assert len(answer) == 5
    assert all(int(row["item_id"][1:]) % 2 == 0 for row in answer)
    assert all(row["title"] for row in answer)


def test_unknown_ids_are_named_with_their_nearest(darec: Callable[..., str], first: str) -> None:
    message = darec("recommend", "--user", "u0000", code=2)
    assert message.count("\n") == 1 and "u0000" in message and "u000" in message
    assert "i0020" in darec("similar", "--item", "i0020", code=2)


def test_status_and_explain(darec: Callable[..., str], first: str) -> None:
    steps = json.loads(darec("status", "--json"))
    assert {step["state"] for step in steps} == {"hit"}
    steps = json.loads(darec("status", "--json", "--set", "train.epochs=61"))
    train = next(step for step in steps if step["stage"] == "train")
    assert train["state"] == "stale" and "epochs: 60 -> 61" in train["why"]
    text = darec("explain", "evaluate")
    assert "Lineage" in text and "ingest" in text and "manifest" not in text.split("Lineage")[1]


def test_a_users_fault_is_one_line_and_exit_code_2(darec: Callable[..., str], first: str) -> None:
    message = darec("run", "--set", "data.interactions=none.csv", code=2)
    assert message.startswith("error:") and message.count("\n") == 1 and "none.csv" in message


@pytest.mark.parametrize("taken", [0, 1], ids=["of the server", "of the reports"])
def test_ui_starts_nothing_where_a_port_is_taken_and_says_which(darec: Callable[..., str], taken: int) -> None:
    port = free_port(pair=True)
    with socket.create_server(("127.0.0.1", port + taken)):
        message = darec("ui", "--port", str(port), code=2)
    assert message.count("\n") == 1 and f"127.0.0.1:{port + taken}" in message and "another --port" in message


def test_config_show_is_a_recipe(folder: Path, darec: Callable[..., str]) -> None:
    shown = yaml.safe_load(darec("config", "show"))
    assert shown["train"]["epochs"] == 60 and shown["data"]["source"] == "csv"
    (folder / "full.yaml").write_text(yaml.safe_dump(shown))
    assert yaml.safe_load(darec("config", "show", "--recipe", "full.yaml")) == shown
    assert "properties" in json.loads(darec("config", "schema"))


@pytest.mark.skipif(not (models_root() / "smollm2-135m-instruct").is_dir(), reason="the models are not fetched")
def test_doctor_finds_all_that_is_needed(folder: Path) -> None:
    assert "torch" in shell(folder, "doctor")


def test_a_refusal_is_said_and_has_an_exit_code(darec: Callable[..., str], first: str) -> None:
    worse = ("--set", "train.epochs=1", "--set", "train.learning_rate=1e-9", "--set", "gate.minimums={recall@20: 2.0}")
    message = darec("run", *worse)
    assert run_states(message)["publish"] == "refused" and "recall@20" in message
    darec("run", "--require-publish", *worse, code=3)
    darec("run", "--require-publish")
