"""Processes that a service keeps alive."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from darec.common.errors import DarecError
from pipelines import supervise
from pipelines.supervise import Part, Parts
from tests.processes import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def starts(log: Path) -> int:
    return log.read_text().count("started") if log.exists() else 0


def says(word: str, then: str) -> list[str]:
    return [sys.executable, "-c", f"import time, sys; print({word!r}, flush=True); {then}"]


def test_a_process_that_was_killed_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "_PAUSE", 0)
    part = Part("clock", says("started", "time.sleep(600)"), log=tmp_path / "log")
    with Parts() as parts:
        parts.add(part)
        assert wait_for(lambda: starts(tmp_path / "log") == 1)
        psutil.Process(part.pid).kill()
        assert wait_for(lambda: part.restart_if_ended() or starts(tmp_path / "log") == 2)
        assert part.returncode() is None
    assert part.returncode() is not None


def test_one_that_keeps_ending_is_an_error_that_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "_PAUSE", 0)
    monkeypatch.setattr(supervise, "_INTERVAL", 0.02)
    with Parts() as parts, pytest.raises(DarecError, match=r"the clock ended repeatedly.*log"):
        parts.add(Part("clock", says("started", "sys.exit(3)"), log=tmp_path / "log"))
        parts.keep_alive()
    assert starts(tmp_path / "log") == supervise._TRIES


def test_the_last_to_be_started_ends_first(tmp_path):
    log = tmp_path / "log"
    with Parts() as parts:
        for name in ("first", "second"):
            ends = f"signal.signal(signal.SIGTERM, lambda *_: (print({name!r} + ' ends', flush=True), sys.exit()))"
            code = f"import signal, sys, time; {ends}; print('started', flush=True); time.sleep(600)"
            parts.add(Part(name, [sys.executable, "-c", code], log=log))
        assert wait_for(lambda: starts(log) == 2)
    assert [line for line in log.read_text().splitlines() if "ends" in line] == ["second ends", "first ends"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_gets_its_signal_when_the_one_that_started_it_is_killed(tmp_path, number):
    code = f"""
        import signal, sys, time
        from pipelines.supervise import Part
        part = Part("clock", {SLEEP!r}, stop=signal.Signals({number}))
        print(part.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_process_hears_sigint_though_a_shell_started_us_in_the_background(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Parts() as parts:
            part = parts.add(
                Part("clock", says("started", "time.sleep(600)"), log=tmp_path / "log", stop=signal.SIGINT)
            )
            assert wait_for(lambda: starts(tmp_path / "log") == 1)
        assert part.returncode() == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)
