"""The client of an LLM server: whatever a real server on loopback sends, each row ends as an answer or is asked again.

`Jaws` is the row that the server treats badly; the other three are answered well unless a test says otherwise.
"""

import json
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darec.common.errors import DarecError, TransientError, UserError
from darec.text import server
from darec.text.entities import ITEM_VARIABLES, item_text_from_metadata, items_as_data
from darec.text.profiling import ProfileTask
from darec.text.protocol import Answer, Request
from darec.text.replies import RejectedError, Reply, RetryableError, read_reply
from darec.text.server import ServerEngine
from schemas import columns as c
from schemas import tables
from schemas.semantic import ItemProfileConfig, LLMConfig
from tests.llm_stub import Behaviour, Handler, completion, profile, send, stub, well
from tests.processes import wait_for

TITLES = ["Alien (1979)", "Jaws (1975)", "Heat (1995)", "Speed (1994)"]
Body = dict[str, Any]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_PAUSE", 0.02)


def task(folder: Path, url: str, titles: list[str] = TITLES, **llm: Any) -> ProfileTask:
    ids = [f"i{number:03d}" for number in range(len(titles))]
    rows = {c.ITEM: ids, c.TITLE: titles, c.DESCRIPTION: [None] * len(ids), c.ATTRIBUTES: [[] for _ in ids]}
    vocabulary = pl.DataFrame({c.ITEM_INDEX: range(len(ids)), c.ITEM: ids}, schema=tables.ITEM_VOCABULARY)
    config = {"engine": "server", "model": "stub", "retries": 2, "timeout": 60.0, **llm}
    config |= {"server_url": url} if url else {}
    return ProfileTask(
        rows=items_as_data(vocabulary, pl.DataFrame(rows, schema=tables.ITEMS)),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=LLMConfig.model_validate(config),
        config=ItemProfileConfig(),
        ledger_root=folder,
    )


def is_jaws(request: Body) -> bool:
    return "Jaws" in request["messages"][-1]["content"]


def but_for_jaws(behave: Behaviour) -> Behaviour:
    return lambda request, handler: (behave if is_jaws(request) else well)(request, handler)


def sends(body: Any, status: int = 200, **headers: str) -> Behaviour:
    return lambda request, handler: send(handler, body, status, **headers)


def sources(profiles: pl.DataFrame) -> list[str]:
    return profiles[c.SOURCE].to_list()


def in_ledger(work: ProfileTask) -> int:
    return len(TITLES) - work.pending()


# The protocol as it should be


def test_what_is_sent_and_what_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAREC_LLM_API_KEY", "s3cret")
    with stub(well) as llm:
        profiles, report = task(tmp_path, f"{llm.url}/").run()
    assert profiles[c.PROFILE].to_list() == [f'a profile of "{title}"' for title in TITLES]
    assert (report["generated"], report["prompt_tokens"], report["output_tokens"]) == (4, 40, 20)
    assert set(llm.paths) == {"/v1/chat/completions"}
    assert {headers["Authorization"] for headers in llm.headers} == {"Bearer s3cret"}
    request = llm.asked[0]
    assert {name: request[name] for name in ("model", "temperature", "max_tokens", "frequency_penalty")} == {
        "model": "stub", "temperature": 0.0, "max_tokens": 40, "frequency_penalty": 0.3,
    }  # fmt: skip
    assert request["response_format"]["json_schema"]["schema"]["properties"]["profile"]["maxLength"] == 90


def test_a_password_in_the_address_reaches_the_server_and_no_message(tmp_path: Path) -> None:
    with stub(well) as llm:
        secret = llm.url.replace("http://", "http://bob:p4ss@") + "?api_key=t0ken"
        task(tmp_path, secret).run()
        assert {headers["Authorization"] for headers in llm.headers} == {"Basic Ym9iOnA0c3M="}
        assert set(llm.paths) == {"/v1/chat/completions?api_key=t0ken"}
        llm.behave = sends({"error": {"message": f"not for {secret}"}}, 401)
        with pytest.raises(UserError) as caught:
            task(tmp_path, secret, seed=1).run()
    assert "refuses the key" in str(caught.value)
    assert not [word for word in ("p4ss", "t0ken") if word in f"{caught.value} {caught.value!r}"]


def test_at_most_so_many_requests_are_open_at_once(tmp_path: Path) -> None:
    lock, counts = threading.Lock(), [0, 0]

    def slowly(request: Body, handler: Handler) -> None:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        time.sleep(0.02)
        with lock:
            counts[0] -= 1
        well(request, handler)

    with stub(slowly) as llm:
        profiles, _ = task(tmp_path, llm.url, [f"Film {n}" for n in range(30)], concurrency=3).run()
    assert sources(profiles) == ["llm"] * 30
    assert counts[1] <= 3


def test_a_key_that_cannot_be_sent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAREC_LLM_API_KEY", "s3\ncret")
    with pytest.raises(UserError, match="DAREC_LLM_API_KEY") as caught:
        task(tmp_path, "http://127.0.0.1:1/v1").run()
    assert "cret" not in str(caught.value)


# Answers that a row can use though their form is another


@pytest.mark.parametrize(
    "answer",
    [
        lambda text: completion([{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]),
        lambda text: completion(f"```json\n{text}\n```"),
        lambda text: completion(f"<think>\nThe user wants {{}} ...\n</think>\n\n{text}"),
        lambda text: completion(text, usage=None),
        lambda text: completion(text, usage=[]),
        lambda text: completion(text, usage={"prompt_tokens": 10**30, "completion_tokens": -5}),
        lambda text: completion(text, usage={"prompt_tokens": None, "completion_tokens": "7", "total_tokens": 1.5}),
        lambda text: completion(text, reason=None),
        lambda text: completion(text, reason="eos_token", model=None, id=None),
        lambda text: completion(text) | {"error": None},
    ],
)
def test_unusual_forms_of_a_good_answer_are_read(tmp_path: Path, answer: Any) -> None:
    with stub(but_for_jaws(lambda request, handler: send(handler, answer(profile(request))))) as llm:
        profiles, report = task(tmp_path, llm.url).run()
    assert profiles[c.PROFILE].to_list() == [f'a profile of "{title}"' for title in TITLES]
    assert len(llm.asked) == 4
    assert 0 <= report["prompt_tokens"] <= 40 and 0 <= report["output_tokens"] <= 20


def test_another_content_type_is_no_obstacle(tmp_path: Path) -> None:
    with stub(
        lambda request, handler: send(handler, completion(profile(request)), Content_Type="text/html; charset=utf-16")
    ) as llm:
        profiles, _ = task(tmp_path, llm.url).run()
    assert sources(profiles) == ["llm"] * 4


def test_another_models_name_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def as_another(request: Body, handler: Handler) -> None:
        send(handler, completion(profile(request), model="other\x1b[31m-7b"))

    with stub(as_another) as llm:
        task(tmp_path, llm.url).run()
    [told] = [record.getMessage() for record in caplog.records if "answers as model" in record.getMessage()]
    assert "'other [31m-7b', not 'stub'" in told


@pytest.mark.parametrize("name", ["stub", "stub-2024-07-18", "vendor/stub", "", None, 7])
def test_other_forms_of_the_models_name_are_it(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: Any) -> None:
    with stub(lambda request, handler: send(handler, completion(profile(request), model=name))) as llm:
        task(tmp_path, llm.url).run()
    assert [record for record in caplog.records if record.name.startswith("darec")] == []


# Answers that are one row's failure: named, and the other rows are kept


def refusing(request: Body, handler: Handler) -> None:
    answer = completion(None)
    answer["choices"][0]["message"]["refusal"] = "I'm sorry, I can't help with that."
    send(handler, answer)


TOO_LONG = {
    "vLLM's renderer": {
        "error": {
            "message": "This model's maximum context length is 2048 tokens. However, your prompt contains 3714 input "
            "tokens, which exceeds this limit even without any output tokens.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    },
    "vLLM's engine": {
        "error": {"message": "The decoder prompt (length 3714) is longer than the maximum model length of 2048."}
    },
    "vLLM, to the last token": {
        "object": "error",
        "message": "The decoder prompt (length 2048) plus the number of requested output tokens (at least 1) is longer "
        "than the maximum model length of 2048.",
        "code": 400,
    },
    "vLLM's budget": {"error": {"message": "Input length (3714) exceeds model's maximum context length (2048)."}},
    "OpenAI": {"error": {"message": "Please reduce the length.", "code": "context_length_exceeded"}},
    "llama.cpp": {"error": {"code": 400, "message": "the request exceeds the available context size (2048 tokens)"}},
    "SGLang": {"message": "The input (3714 tokens) is longer than the model's context length (2048 tokens)."},
}

ROW_FAILURES: dict[str, tuple[Behaviour, str]] = {
    "content filter": (sends(completion("", "content_filter")), "filtered"),
    "content filter, null": (sends(completion(None, "content_filter")), "filtered"),
    "Azure's filter": (
        sends({"error": {"code": "content_filter", "message": "The response was filtered", "status": 400}}, 400),
        "filtered",
    ),
    "refusal": (refusing, "refused"),
    "refusal in words": (sends(completion("I'm sorry, but I can't assist with that request.")), "refused"),
    "refusal in JSON": (sends(completion('{"profile":"I cannot help with that."}')), "refused"),
    "null content": (sends(completion(None)), "empty"),
    "no parts": (sends(completion([])), "empty"),
    "not JSON": (sends(completion("a tense shark hunt")), "not_json"),
    "another object": (sends(completion('{"description":"a tense shark hunt"}')), "not_json"),
    "cut off": (sends(completion('{"profile":"a tense sha', "length", usage=None)), "cut_off"),
    "thoughts without end": (
        sends(completion('<think>Maybe {"profile":"a draft of it"}?', "length", usage=None)),
        "cut_off",
    ),
    **{f"too long: {name}": (sends(error, 400), "too_long") for name, error in TOO_LONG.items()},
    "no room for the answer": (sends(completion('{"profile":"a tense', "length")), "too_long"),
    "refused alone": (sends({"error": {"message": "no emoji in prompts", "code": 400}}, 400), "rejected"),
}


@pytest.mark.parametrize("name", ROW_FAILURES)
def test_one_rows_failure_has_its_name_and_costs_no_other(tmp_path: Path, name: str) -> None:
    behave, cause = ROW_FAILURES[name]
    with stub(but_for_jaws(behave)) as llm:
        work = task(tmp_path, llm.url)
        profiles, report = work.run()
    assert sources(profiles) == ["llm", "metadata", "llm", "llm"]
    assert report["causes"] == {cause: 1}
    assert profiles[c.PROFILE][1] == "Jaws (1975)"
    assert in_ledger(work) == 4


# Transient errors are retried


def drops(request: Body, handler: Handler) -> None:
    handler.close_connection = True


def truncated_json(request: Body, handler: Handler) -> None:
    send(handler, json.dumps(completion(profile(request)))[:-20])


def cut_body(request: Body, handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
    handler.close_connection = True


def garbage(request: Body, handler: Handler) -> None:
    handler.wfile.write(b"\x00\xff garbage\r\n\r\n")
    handler.close_connection = True


def bad_gzip(request: Body, handler: Handler) -> None:
    send(handler, b"this is no gzip", Content_Encoding="gzip")


def endless(request: Body, handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(10_000):
        handler.wfile.write(b"x" * 65536)


TRANSIENT: dict[str, Behaviour] = {
    "concurrency limit as 400": sends(
        {"error": {"message": "maximum number of concurrent requests exceeded", "code": 400}}, 400
    ),
    "429": sends({"error": {"message": "slow down", "type": "rate_limit_error"}}, 429),
    "500": sends("Internal Server Error", 500),
    "502 page": sends("<html><h1>Bad Gateway</h1></html>", 502, Content_Type="text/html"),
    "503": sends({"error": "The engine is currently busy"}, 503),
    "error inside 200": sends({"error": {"message": "overloaded"}}),
    "error inside 200, as text": sends({"error": "overloaded", "choices": None}),
    "a relay's 429 inside 200": sends({"error": {"code": 429, "message": "provider"}}),
    "HTML": sends("<!doctype html><title>Log in</title>", Content_Type="text/html"),
    "a list": sends([]),
    "null": sends("null"),
    "a number": sends("7"),
    "nothing": sends(""),
    "204": sends("", 204),
    "no choices": sends({"id": "1", "usage": {}}),
    "null choices": sends(completion("") | {"choices": None}),
    "empty choices": sends(completion("") | {"choices": []}),
    "choices of text": sends(completion("") | {"choices": ["x"]}),
    "choices as an object": sends(completion("") | {"choices": {"0": {}}}),
    "null message": sends(completion("") | {"choices": [{"message": None}]}),
    "content as a number": sends(completion(3.5)),
    "content as an object": sends(completion({"profile": "a tense shark hunt"})),
    "not UTF-8": sends(b'{"choices": "\xff\xfe"}'),
    "a million brackets": sends("[" * 10**6),
    "a number of many digits": sends('{"choices": ' + "9" * 10**5 + "}"),
    "truncated JSON": truncated_json,
    "a cut body": cut_body,
    "no HTTP": garbage,
    "no gzip": bad_gzip,
    "a dropped connection": drops,
    "a response without end": endless,
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_transient_error_is_retried_and_costs_nothing(tmp_path: Path, name: str) -> None:
    failures = []

    def at_first(request: Body, handler: Handler) -> None:
        if is_jaws(request) and len(failures) < 2:
            failures.append(name)
            TRANSIENT[name](request, handler)
        else:
            well(request, handler)

    with stub(at_first) as llm:
        profiles, report = task(tmp_path, llm.url).run()
    assert sources(profiles) == ["llm"] * 4
    assert len(llm.asked) == 6
    assert report["failures"] == {}


@pytest.mark.parametrize("name", TRANSIENT)
def test_an_error_that_lasts_for_one_row_is_that_rows_failure(tmp_path: Path, name: str) -> None:
    with stub(but_for_jaws(TRANSIENT[name])) as llm:
        work = task(tmp_path, llm.url)
        profiles, report = work.run()
    assert sources(profiles) == ["llm", "metadata", "llm", "llm"]
    assert report["causes"] == {"failed": 1}
    assert in_ledger(work) == 4


@pytest.mark.parametrize("name", TRANSIENT)
def test_an_error_that_lasts_for_every_row_is_the_servers_and_marks_no_row(tmp_path: Path, name: str) -> None:
    with stub(TRANSIENT[name]) as llm:
        work = task(tmp_path, llm.url)
        with pytest.raises(TransientError, match="LLM server"):
            work.run()
        assert len(llm.asked) <= 3 * len(TITLES)
        assert work.pending() == 4
        llm.behave = well
        profiles, _ = work.run()
    assert sources(profiles) == ["llm"] * 4


def test_a_server_that_is_not_there_is_named_after_its_tries(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be reached.*127.0.0.1:1/v1.*correct llm.server_url"):
        task(tmp_path, "http://127.0.0.1:1/v1", concurrency=1).run()


def test_a_server_killed_in_the_middle_marks_no_row(tmp_path: Path) -> None:
    """Rows that are open at the kill are requested again the next time, though the server answered others before; among
    them are answers that were on their way when the failure was found.
    """
    answered = []

    def dies(request: Body, handler: Handler) -> None:
        if len(answered) >= 5:
            drops(request, handler)
        else:
            answered.append(request)
            well(request, handler)

    titles = [f"Film {number}" for number in range(24)]
    with stub(dies) as llm:
        work = task(tmp_path, llm.url, titles, concurrency=4)
        with pytest.raises(TransientError):
            work.run()
        open_rows = work.pending()
        llm.behave = well
        profiles, report = work.run()
    assert 24 - len(answered) <= open_rows < 24
    assert (report["generated"], report["from_ledger"]) == (open_rows, 24 - open_rows)
    assert sources(profiles) == ["llm"] * 24


def test_the_servers_wish_to_wait_is_granted(tmp_path: Path) -> None:
    times = []

    def busy_once(request: Body, handler: Handler) -> None:
        if is_jaws(request):
            times.append(time.monotonic())
        if is_jaws(request) and len(times) == 1:
            send(handler, {"error": "busy"}, 503, Retry_After="1.2")
        else:
            well(request, handler)

    with stub(busy_once) as llm:
        task(tmp_path, llm.url).run()
    assert times[1] - times[0] >= 1.2


def test_a_wish_to_wait_for_an_hour_ends_the_run(tmp_path: Path) -> None:
    with stub(sends({"error": "come back tomorrow"}, 429, Retry_After="3600")) as llm:
        with pytest.raises(TransientError, match="come back tomorrow"):
            task(tmp_path, llm.url).run()
        assert len(llm.asked) == 4


# Deadlines


GIVEN_UP = threading.Event()
"""Set when the run has ended: until then the server goes on, so that only a deadline can end the request."""


def drip(request: Body, handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not GIVEN_UP.wait(0.1):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drip_headers(request: Body, handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not GIVEN_UP.wait(0.1):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def silence(request: Body, handler: Handler) -> None:
    GIVEN_UP.wait()
    handler.close_connection = True


@pytest.mark.timeout(120)  # without a deadline the server would never be done
def test_a_deadline_is_for_the_whole_request(tmp_path: Path) -> None:
    """Three servers at once, because the test does nothing but wait for their deadlines."""
    behaviours: tuple[Behaviour, ...] = (drip, drip_headers, silence)
    all_ended = threading.Barrier(len(behaviours), action=GIVEN_UP.set)
    GIVEN_UP.clear()

    def run(number: int) -> tuple[list[str], dict[str, int]]:
        with stub(but_for_jaws(behaviours[number])) as llm:
            try:
                profiles, report = task(tmp_path / str(number), llm.url, timeout=4, retries=0).run()
            finally:
                all_ended.wait()
        return sources(profiles), report["causes"]

    with ThreadPoolExecutor(len(behaviours)) as pool:
        for found in pool.map(run, range(len(behaviours))):
            assert found == (["llm", "metadata", "llm", "llm"], {"failed": 1})


def test_a_server_that_drips_for_every_row_is_named(tmp_path: Path) -> None:
    with stub(drip) as llm, pytest.raises(TransientError, match=r"no answer within 0\.5 s.*raise llm.timeout"):
        task(tmp_path, llm.url, timeout=0.5, retries=0).run()


# What no row can get past: the user's error, at once


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"error": {"message": "maximum schema depth exceeded", "code": 400}}, 400, "maximum schema depth"),
        ({"error": {"message": "maximum schema depth exceeded"}}, 422, "maximum schema depth"),
        ({"detail": [{"loc": ["body"], "msg": "extra fields"}]}, 422, "extra fields"),
        ({"error": {"message": "`stub` is not a valid model ID"}}, 400, "not a valid model.*llm.model"),
        ({"error": {"message": "The model `stub` does not exist."}}, 404, "does not exist.*llm.model"),
        ("<html>404 Not Found</html>", 404, "llm.server_url"),
        ("", 405, "llm.server_url"),
        ({"error": {"message": "max_tokens=40 cannot be greater than max_model_len=16"}}, 400, "max_tokens=40"),
        ({"error": {"message": "wrong key"}}, 401, "refuses the key: wrong key.*llm.api_key_env"),
        ({"error": {"message": "quota", "code": "insufficient_quota"}}, 429, "used up"),
        ({"error": {"code": 401, "message": "wrong key"}}, 200, "refuses the key"),
        ("\x1b[31mno\x07 such thing", 400, r"\[31mno  ?such thing"),
    ],
)
def test_a_refusal_of_every_row_is_told_at_once_and_no_row_is_marked(tmp_path, body: Any, status: int, says: str):
    with stub(sends(body, status)) as llm:
        work = task(tmp_path, llm.url)
        with pytest.raises(UserError, match=says) as caught:
            work.run()
        assert len(llm.asked) <= 4
        assert work.pending() == 4
    assert str(caught.value).isprintable() and "127.0.0.1" in str(caught.value)


def test_sixty_rows_of_a_server_with_a_limit_on_open_requests(tmp_path: Path) -> None:
    """The limit of a real server, told as 400: no row may become metadata for it."""
    lock, count = threading.Lock(), [0]

    def limited(request: Body, handler: Handler) -> None:
        with lock:
            count[0] += 1
            over = count[0] > 4
        if over:
            send(handler, {"error": {"message": "maximum number of concurrent requests exceeded", "code": 400}}, 400)
        else:
            time.sleep(0.01)
            well(request, handler)
        with lock:
            count[0] -= 1

    with stub(limited) as llm:
        profiles, report = task(tmp_path, llm.url, [f"Film {n}" for n in range(60)], concurrency=16, retries=12).run()
    assert sources(profiles) == ["llm"] * 60
    assert report["failures"] == {}


# Too long: asked again with less data


def test_a_prompt_that_does_not_fit_is_asked_with_less_data_under_its_own_key(tmp_path: Path) -> None:
    limit = 1200  # characters of all turns together

    def short_of_memory(request: Body, handler: Handler) -> None:
        if sum(len(turn["content"]) for turn in request["messages"]) > limit:
            send(handler, TOO_LONG["vLLM's renderer"], 400)
        else:
            well(request, handler)

    titles = [*TITLES[:3], "天地玄黄宇宙洪荒" * 14]
    with stub(short_of_memory) as llm:
        work = task(tmp_path, llm.url, titles)
        whole = work.conversations()
        limit = sum(len(turn["content"]) for turn in whole[3]) - 50
        profiles, report = work.run()
        assert sources(profiles) == ["llm"] * 4
        assert report["failures"] == {"too_long": 1}
        assert work.conversations() == whole and work.pending() == 0
    answered = [request for request in llm.asked if "天" in request["messages"][-1]["content"]][-1]["messages"]
    assert answered[:-1] == list(whole[3][:-1])
    assert answered[-1]["content"].endswith('…"') and "天地玄黄宇宙洪荒" in answered[-1]["content"]


# Whatever the bytes


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.integers(200, 599))
def test_no_bytes_and_no_status_raise_anything_but_the_known_errors(body: bytes, status: int) -> None:
    try:
        reply = read_reply(status, {}, body, 40)
    except (RetryableError, RejectedError, DarecError) as error:
        assert str(error).isprintable()
    else:
        assert isinstance(reply, Reply)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
anything = st.one_of(json_values, st.sampled_from([profile({"messages": [{"content": "x"}]}), "length", 10**400, -1]))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "choices": anything
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "message": anything
                        | st.fixed_dictionaries({}, optional={"content": anything, "refusal": anything}),
                        "finish_reason": anything,
                    },
                ),
                max_size=2,
            ),
            "usage": anything
            | st.fixed_dictionaries({}, optional={"prompt_tokens": anything, "completion_tokens": anything}),
            "error": anything | st.fixed_dictionaries({}, optional={"code": anything, "message": anything}),
            "model": anything,
        },
    ),
    st.sampled_from([200, 400, 429, 500]),
)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
def test_no_almost_right_answer_raises_anything_but_the_known_errors(content: Any, status: int) -> None:
    try:
        reply = read_reply(status, {}, json.dumps(content).encode(), 40)
    except (RetryableError, RejectedError, DarecError) as error:
        assert str(error).isprintable()
    else:
        assert 0 <= reply.prompt_tokens < 2**31 and 0 <= reply.output_tokens < 2**31
        assert isinstance(reply.text, str) and isinstance(reply.model, str)


@pytest.mark.parametrize(
    "value", ["", "soon", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 400, "1e9999"]
)
def test_a_wish_to_wait_that_makes_no_sense_is_none(value: str) -> None:
    with pytest.raises(RetryableError) as caught:
        read_reply(503, {"retry-after": value}, b"", 40)
    assert caught.value.after == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200) | st.binary(max_size=120).map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest))
def test_no_bytes_on_the_wire_cost_another_row(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    def sends_raw(request: Body, handler: Handler) -> None:
        handler.wfile.write(raw)
        handler.close_connection = True

    with stub(but_for_jaws(sends_raw)) as llm:
        profiles, report = task(tmp_path_factory.mktemp("raw"), llm.url, retries=1).run()
    assert sources(profiles) == ["llm", "metadata", "llm", "llm"]
    assert report["causes"] == {"failed": 1}


# Interruptions


def test_what_is_finished_is_given_before_the_failure(tmp_path: Path) -> None:
    def at_last(request: Body, handler: Handler) -> None:
        if is_jaws(request):
            assert wait_for(lambda: work.pending() == 1)
            send(handler, {"error": {"message": "wrong key"}}, 401)
        else:
            well(request, handler)

    with stub(at_last) as llm:
        work = task(tmp_path, llm.url)
        with pytest.raises(UserError, match="refuses the key"):
            work.run()
    assert work.pending() == 1


def test_rows_are_kept_as_they_come_and_not_at_the_end(tmp_path: Path) -> None:
    with stub(but_for_jaws(silence)) as llm:
        work = task(tmp_path, llm.url, retries=0)
        running = threading.Thread(target=work.run, daemon=True)
        GIVEN_UP.clear()
        running.start()
        try:
            assert wait_for(lambda: work.pending() == 1)
            assert running.is_alive()
        finally:
            GIVEN_UP.set()  # the last row gets no answer either
        running.join(180)
        assert not running.is_alive()


def kept_until_ctrl_c(config: LLMConfig, engine: ServerEngine, kept: list[Answer]) -> list[str]:
    """The keys of the answers that were given before a KeyboardInterrupt."""
    requests = [Request(str(n), ({"role": "user", "content": title},), n, 0.0) for n, title in enumerate(TITLES)]
    with closing(engine), pytest.raises(KeyboardInterrupt):
        for answers in engine.generate(requests, {}, 40):
            kept += answers
    return [answer.key for answer in kept]


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    ended, kept = threading.Event(), list[Answer]()

    def then_waits(request: Body, handler: Handler) -> None:
        if is_jaws(request):
            assert wait_for(lambda: bool(kept))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            ended.wait(60)
        else:
            well(request, handler)

    with stub(then_waits) as llm:
        config = task(tmp_path, llm.url, concurrency=1).llm
        assert kept_until_ctrl_c(config, ServerEngine(config), kept) == ["0"]
        ended.set()


def test_ctrl_c_keeps_what_came_at_the_same_moment(tmp_path: Path) -> None:
    class Interrupted(ServerEngine):
        """Ctrl-C after the first answer and before it is given to the caller."""

        async def _wait(self, workers, batch):
            await super()._wait(workers, batch)
            raise KeyboardInterrupt

    with stub(well) as llm:
        config = task(tmp_path, llm.url, concurrency=1).llm
        assert kept_until_ctrl_c(config, Interrupted(config), []) == ["0"]


def test_an_answer_that_cannot_be_read_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darec.text import generate

    real = generate.read_profile

    def fails(answer: Answer, max_chars: int) -> tuple[str | None, str]:
        if "Jaws" in answer.text:
            raise RuntimeError("a fault of ours")
        return real(answer, max_chars)

    class AtOnce(ServerEngine):
        """The answers of a real server as one chunk, so that the bad one has others beside it."""

        def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int):
            yield [answer for answers in super().generate(requests, schema, max_tokens) for answer in answers]

    monkeypatch.setattr(generate, "read_profile", fails)
    with stub(well) as llm:
        work = task(tmp_path, llm.url)
        with closing(AtOnce(work.llm)) as engine, pytest.raises(RuntimeError, match="a fault of ours"):
            work.run(engine=engine)
    assert work.pending() == 1
