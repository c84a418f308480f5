"""Logs as a collector reads them."""

import io
import json
import logging
import threading

import pytest

from darec.common import logs
from darec.common.errors import UserError
from darec.common.warnings import warn_once


@pytest.fixture
def stream():
    """Where logs go; loggers are as before afterwards."""
    kept = [(logging.getLogger(name), vars(logging.getLogger(name)).copy()) for name in logs.PACKAGES]
    yield io.StringIO()
    for logger, state in kept:
        logger.handlers, logger.propagate = state["handlers"], state["propagate"]
        logger.setLevel(state["level"])


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_message_the_numbers_and_where_it_came_from(stream):
    logs.configure("json", stream)
    with logs.context(run="brave-otter"), logs.context(stage="train"):
        logging.getLogger("stages.train").info("trained %s epochs", 3, extra={"rows": 938, "seconds": 1.25})
    logging.getLogger("darec.artifacts").warning("after")
    first, second = lines(stream)
    assert first["message"] == "trained 3 epochs" and first["level"] == "info" and first["logger"] == "stages.train"
    assert (first["run"], first["stage"], first["rows"], first["seconds"]) == ("brave-otter", "train", 938, 1.25)
    assert first["time"].endswith("+00:00") and "run" not in second


def test_a_traceback_and_any_value_stay_on_one_line(stream):
    logs.configure("json", stream)
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        logging.getLogger("darec").exception("it failed", extra={"path": io.StringIO()})
    [line] = lines(stream)
    assert "ValueError: first\nsecond" in line["traceback"] and "StringIO" in line["path"]
    assert "\x1b" not in stream.getvalue()


def test_as_text_a_terminal_sees_warnings_only(stream):
    logs.configure("text", stream)
    logging.getLogger("darec").info("quiet")
    warn_once("something of \x07 this test's own")
    assert stream.getvalue() == "warning: something of \\u0007 this test's own\n"


def test_being_configured_twice_says_nothing_twice_and_keeps_the_handlers_of_others(stream):
    other = logging.NullHandler()
    logging.getLogger("darec").addHandler(other)
    logs.configure("json", io.StringIO())
    logs.configure("json", stream)
    logging.getLogger("darec").info("once")
    assert len(lines(stream)) == 1 and other in logging.getLogger("darec").handlers


def test_the_context_of_one_thread_is_not_that_of_another(stream):
    logs.configure("json", stream)
    with logs.context(stage="train"):
        thread = threading.Thread(target=lambda: logging.getLogger("darec").info("elsewhere"))
        thread.start()
        thread.join()
    assert "stage" not in lines(stream)[0]


def test_the_format_comes_from_the_environment_and_a_wrong_word_is_refused(stream, monkeypatch):
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    logs.configure(stream=stream)
    logging.getLogger("darec").info("hello")
    assert lines(stream)[0]["message"] == "hello"
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "xml")
    with pytest.raises(UserError, match="no such log format"):
        logs.configure()
