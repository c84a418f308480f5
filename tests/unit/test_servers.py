"""Several LLM servers for one model: real servers on loopback of different speeds, of which some fail or are killed."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from darec.common.errors import TransientError, UserError
from darec.text import server, servers
from darec.text.protocol import Request
from darec.text.server import ServerEngine
from schemas.recipe import Recipe
from schemas.semantic import LLMConfig
from tests.llm_stub import Behaviour, Handler, completion, send, stub, well
from tests.unit.test_server import drops, is_jaws, sends, sources, task

FILMS = [f"Film {number}" for number in range(40)]
Body = dict[str, Any]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(servers, "_FIRST_REST", 0.05)


def after(seconds: float) -> Behaviour:
    def slowly(request: Body, handler: Handler) -> None:
        time.sleep(seconds)
        well(request, handler)

    return slowly


class AnswersOnce:
    """Answers one row and says so; every later request stays open."""

    def __init__(self) -> None:
        self._first = threading.Lock()

    def __call__(self, request: Body, handler: Handler) -> None:
        if self._first.acquire(blocking=False):
            well(request, handler)
            print("answered", flush=True)
        else:
            time.sleep(600)


@contextmanager
def another_process() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that can be killed, which says when it has answered a row, and answers no other."""
    script = (
        "import time\nfrom tests.llm_stub import stub\nfrom tests.unit.test_servers import AnswersOnce\n"
        "with stub(AnswersOnce()) as llm:\n    print(llm.url, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def ask(urls: list[str], count: int, **llm: Any) -> Counter[str]:
    """How many of so many rows each server answered; no row is left out or answered twice."""
    rows = [Request(str(n), ({"role": "user", "content": f"Film {n}"},), n, 0.0) for n in range(count)]
    config = {"engine": "server", "model": "stub", "server_urls": urls, "timeout": 60.0} | llm
    with closing(ServerEngine(LLMConfig.model_validate(config))) as engine:
        answers = [answer for some in engine.generate(rows, {}, 40) for answer in some]
    assert sorted(answer.key for answer in answers) == sorted(row.key for row in rows)
    assert {answer.finish_reason for answer in answers} == {"stop"}
    return Counter(answer.server for answer in answers)


def test_a_faster_server_gets_more_rows() -> None:
    with stub(after(0.02)) as fast, stub(after(0.3)) as slow:
        answered = ask([slow.url, fast.url], 80, concurrency=4)
    assert answered == {fast.url: len(fast.asked), slow.url: len(slow.asked)}, "no row is sent twice"
    assert answered[fast.url] > 2 * answered[slow.url] > 0


def test_at_most_so_many_requests_are_open_at_each_server() -> None:
    lock, counts = threading.Lock(), {"open": 0, "most": 0}

    def counting(request: Body, handler: Handler) -> None:
        with lock:
            counts["open"] += 1
            counts["most"] = max(counts.values())
        time.sleep(0.02)
        with lock:
            counts["open"] -= 1
        well(request, handler)

    with stub(counting) as first, stub(drops) as second:
        assert ask([first.url, second.url], 30, concurrency=3) == {first.url: 30}
    assert counts["most"] <= 3, "also while the other server fails"


def test_rows_of_a_killed_server_go_to_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with another_process() as (url, process), stub(after(0.02)) as left:
        numbers = count(1)

        def kills_the_other(request: Body, handler: Handler) -> None:
            if next(numbers) == 15:
                assert process.stdout is not None and process.stdout.readline() == "answered\n"
                process.send_signal(signal.SIGKILL)
            after(0.02)(request, handler)

        left.behave = kills_the_other
        # Without retries at one server: a row whose server dies is still sent to the other one.
        profiles, report = task(tmp_path, "", FILMS, server_urls=[url, left.url], concurrency=4, retries=0).run()
    assert sources(profiles) == ["llm"] * len(FILMS)
    assert report["servers"][url] > 0 and sum(report["servers"].values()) == len(FILMS)
    assert len(left.asked) == report["servers"][left.url], "the other server's rows are sent to it once"
    told = [record.getMessage() for record in caplog.records if "others get its rows" in record.getMessage()]
    # Answers that were on their way may come between its failures, of which four were open at once.
    assert 1 <= len(told) <= 4 and all(url in each for each in told)


def test_a_server_that_fails_is_tried_again_ever_later_and_takes_part_again() -> None:
    tried: list[float] = []
    both_are_open = threading.Barrier(2)

    def fails_at_first(request: Body, handler: Handler) -> None:
        tried.append(time.monotonic())
        if len(tried) <= 2:
            both_are_open.wait(60)
        if len(tried) <= 4:
            send(handler, {"error": {"message": "loading"}}, 503)
        else:
            after(0.01)(request, handler)

    with stub(after(0.02)) as steady, stub(fails_at_first) as late:
        assert ask([late.url, steady.url], 250, concurrency=2)[late.url] > 4
    # Two requests were open at the first failure; from then on there was one at a time.
    pauses = [later - earlier for earlier, later in pairwise(tried[1:5])]
    assert pauses[0] >= 0.04 and pauses[1] >= 0.09 and pauses[2] >= 0.19


def test_a_server_is_not_asked_before_the_time_that_it_wished() -> None:
    busy = sends({"error": {"message": "busy"}}, 429, Retry_After="60")
    with stub(busy) as limited, stub(well) as other:
        assert ask([limited.url, other.url], 40, concurrency=2) == {other.url: 40}
    assert 1 <= len(limited.asked) <= 2


def test_without_any_server_the_run_fails_for_now(tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9/v1"
    with stub(drops) as failing:
        work = task(tmp_path, "", server_urls=[dead, failing.url], retries=3)
        with pytest.raises(TransientError) as caught:
            work.run()
    assert dead in str(caught.value) and failing.url in str(caught.value)
    assert work.pending() == 4


def test_a_row_that_every_server_fails_at_costs_no_other(tmp_path: Path) -> None:
    def but_jaws(request: Body, handler: Handler) -> None:
        (drops if is_jaws(request) else well)(request, handler)

    with stub(but_jaws) as first, stub(but_jaws) as second:
        profiles, report = task(tmp_path, "", server_urls=[first.url, second.url], retries=2).run()
    assert sources(profiles) == ["llm", "metadata", "llm", "llm"]
    assert report["causes"] == {"failed": 1}
    jaws = [sum(is_jaws(request) for request in llm.asked) for llm in (first, second)]
    assert min(jaws) >= 1, "it was tried at both"


def test_passwords_of_servers_are_shown_nowhere_and_batches_have_one_server(tmp_path: Path) -> None:
    with stub(well) as llm:
        secret = llm.url.replace("http://", "http://bob:p4ss@")
        _, report = task(tmp_path, "", server_urls=[secret]).run()
        assert {headers["Authorization"] for headers in llm.headers} == {"Basic Ym9iOnA0c3M="}
    config = LLMConfig.model_validate({"server_urls": [secret]})
    assert "p4ss" not in json.dumps(report) + config.model_dump_json() + str(config)
    with pytest.raises(ValidationError, match="batches go to one server"):
        Recipe.model_validate({"llm": {"engine": "server", "server_urls": [secret], "batch_api": True}})


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "The model `stub` does not exist."), (401, "wrong key"), (400, "`stub` is not a valid model ID")],
)
def test_a_server_that_refuses_every_request_gets_no_rows_if_others_answer(
    caplog: pytest.LogCaptureFixture, status: int, message: str
) -> None:
    with stub(sends({"error": {"message": message}}, status)) as wrong, stub(after(0.02)) as right:
        assert ask([wrong.url, right.url], 30, concurrency=4) == {right.url: 30}
        assert len(wrong.asked) <= 30
    if status != 400:  # a row may be the cause of a 400, so the server is not paused
        assert len(wrong.asked) < 15
        assert f"the LLM server {wrong.url} fails" in caplog.text and message in caplog.text


def test_a_refusal_by_all_servers_ends_the_run_at_once() -> None:
    with stub(sends({"error": {"message": "no such model"}}, 404)) as one, stub(sends("wrong key", 401)) as other:
        with pytest.raises(UserError, match="no such model|wrong key"):
            ask([one.url, other.url], 30, concurrency=4)
        assert len(one.asked) + len(other.asked) <= 16


def test_a_server_whose_answers_cannot_be_used_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with stub(lambda request, handler: send(handler, completion("I am no JSON"))) as bad, stub(after(0.02)) as good:
        task(tmp_path, "", FILMS, server_urls=[bad.url, good.url], concurrency=4, max_fallback_share=1.0).run()
    [told] = [message for message in caplog.messages if "cannot be used" in message]
    assert bad.url in told and good.url not in told
