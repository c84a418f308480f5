"""Files of object stores and web servers: read once, read again when they change, never half."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import deltalake
import polars as pl
import pytest

from darec.artifacts.store import Store
from darec.common.errors import TransientError, UserError
from darec.dataset.copies import copies_in
from schemas.copies import COPIES
from stages.plan import plan
from stages.prepare import read_sources
from stages.walk import run
from tests.buckets import S3, configured
from tests.data import write_checkerboard
from tests.remotes import Files, files_server, night, recipe, send

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_checkerboard(tmp_path / "data", users=12, items=10)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3().served() as server, configured(server):
        yield server


@pytest.fixture
def web() -> Iterator[Files]:
    with files_server() as server:
        yield server


@pytest.fixture
def emulated(web: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The server as the endpoint of Google's and Azure's clients."""
    account = {"gcs_base_url": web.url, "disable_oauth": True, "client_email": "", "private_key": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | {"private_key_id": ""}))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", web.url)
    return web


def local_key(data: Path, tmp_path: Path) -> str:
    """The key of ingest for the same files on this machine."""
    chosen = recipe(tmp_path / "local", interactions=str(data / "interactions.csv"), items=str(data / "items.csv"))
    artifact = run(chosen, "ingest")[0].artifact
    assert artifact is not None
    return artifact.key


def one_more(data: Path) -> bytes:
    return (data / "interactions.csv").read_bytes() + b"u000,i001,5,1700000001,train\n"


def test_a_bucket_is_read_as_local_files_are_and_again_only_where_it_changes(s3, data, tmp_path):
    url = s3.new_bucket()
    for name in ("interactions.csv", "items.csv"):
        s3.put(url, name, (data / name).read_bytes())
    chosen = recipe(tmp_path, interactions=f"{url}/interactions.csv", items=f"{url}/items.csv")
    store = Store(chosen.runtime.store)
    assert [step.state for step in plan(chosen, store, "split")] == ["stale", "follows"]

    _, (ingest, _) = night(chosen)
    assert ingest.artifact.key == local_key(data, tmp_path), "where the files are is not in the key"

    s3.forget()
    read, results = night(chosen)
    assert [line.rpartition(": ")[2] for line in read] == ["unchanged", "unchanged"]
    assert all(result.cached for result in results)
    assert [step.state for step in plan(chosen, store, "split")] == ["hit", "hit"]
    assert not s3.sent, "a plan and a run of a source that has not changed download nothing"

    s3.put(url, "interactions.csv", one_more(data))
    ingest_step, split_step = plan(chosen, store, "split")
    assert (ingest_step.state, split_step.state) == ("stale", "follows")
    assert "interactions.csv has changed since the copy of" in ingest_step.why[0]
    assert not s3.sent
    _, results = night(chosen)
    assert [result.cached for result in results] == [False, False]
    assert [name.rpartition("/")[2] for name in s3.sent] == ["interactions.csv"], "items.csv is not read again"


def test_a_finished_file_that_a_power_failure_truncated_is_read_again(s3, data, tmp_path, monkeypatch):
    url = s3.new_bucket()
    for name in ("a.csv", "b.csv"):
        s3.put(url, name, (data / "interactions.csv").read_bytes())
    chosen = recipe(tmp_path, interactions=url)
    flushed = []
    monkeypatch.setattr("darec.dataset.remote.flush", lambda path: flushed.append(path.stat().st_size))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("darec.dataset.remote.Copy.commit", interrupted)
        read_sources(chosen)
    whole, truncated = sorted((chosen.runtime.store / COPIES).glob("*/incoming/*"))
    assert flushed == [whole.stat().st_size] * 2
    truncated.write_bytes(whole.read_bytes()[:100])

    s3.forget()
    read_sources(chosen)
    assert len(s3.sent) == 1, "the other file is not read again"
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    assert {path.read_bytes() for path in copy.folder.rglob("*.csv")} == {(data / "interactions.csv").read_bytes()}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_folders_globs_and_partitions_of_a_bucket(s3, data, tmp_path):
    url = s3.new_bucket()
    lines = (data / "interactions.csv").read_text().splitlines()
    for number in range(3):
        part = "\n".join([lines[0], *lines[1 + number :: 3]]) + "\n"
        s3.put(url, f"log/day=2024-01-0{number + 1}/part-0.csv.gz", gzip.compress(part.encode()))
    s3.put(url, "log/_SUCCESS", b"")

    for place, rows in (("log", len(lines) - 1), ("log/day=2024-01-0[12]/*.gz", len(lines[1::3]) + len(lines[2::3]))):
        chosen = recipe(tmp_path / place[:5], interactions=f"{url}/{place}")
        _, (ingest, _) = night(chosen)
        assert ingest.report.rows_in == rows

    before = dict(s3.sent)
    s3.put(url, "log/day=2024-01-04/part-0.csv.gz", gzip.compress(f"{lines[0]}\n{lines[1]}\n".encode()))
    read, _ = night(recipe(tmp_path / "log", interactions=f"{url}/log"))
    assert "1 of 4 files read" in read[0]
    assert [name for name in s3.sent if s3.sent[name] != before.get(name)] == [
        f"/{url.removeprefix('s3://')}/log/day=2024-01-04/part-0.csv.gz"
    ]


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_the_other_object_stores_are_read_alike(emulated, data, tmp_path, scheme):
    for name in ("interactions.csv", "items.csv"):
        emulated.content[f"/shop/{name}"] = (data / name).read_bytes()
    chosen = recipe(tmp_path, interactions=f"{scheme}://shop/interactions.csv", items=f"{scheme}://shop/it*.csv")
    assert night(chosen)[1][0].artifact.key == local_key(data, tmp_path)

    emulated.read()
    assert night(chosen)[1][0].cached
    assert emulated.read() == []
    emulated.content["/shop/interactions.csv"] = one_more(data)
    assert not night(chosen)[1][0].cached
    assert emulated.read() == ["/shop/interactions.csv" if scheme == "az" else "/shop/interactions%2Ecsv"]


@pytest.mark.parametrize("problem", ["no such bucket", "no such file", "no credentials", "wrong credentials"])
def test_what_an_object_store_refuses_is_told(s3, data, tmp_path, monkeypatch, problem):
    url = s3.new_bucket()
    s3.put(url, "interactions.csv", (data / "interactions.csv").read_bytes())
    place, words = f"{url}/interactions.csv", "AWS_ACCESS_KEY_ID"
    if problem == "no such bucket":
        place, words = "s3://nobody-has-this/interactions.csv", problem
    elif problem == "no such file":
        place, words = f"{url}/interactoins.csv", "correct data.interactions"
    elif problem == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/169.254.169.254")
    else:
        monkeypatch.setattr(s3, "refuses", True)
    with pytest.raises(UserError, match=words) as found:
        read_sources(recipe(tmp_path, interactions=place))
    assert place in str(found.value)


def test_a_delta_table_in_a_bucket(s3, tmp_path, monkeypatch):
    table = f"{s3.new_bucket()}/events"
    rows = pl.DataFrame({"id": [1, 2], "user_id": ["a", "b"], "item_id": ["x", "y"], "at": [1_600_000_000] * 2})
    options = {"allow_http": "true", "conditional_put": "etag"}
    deltalake.write_deltalake(table, rows.to_arrow(), storage_options=options)
    place = {"kind": "delta", "table": table, "watermark": "id"}
    chosen = recipe(tmp_path, source="parquet", interactions=place, interaction_columns={"timestamp": "at"})
    assert read_sources(chosen)[0].endswith("2 rows")
    deltalake.write_deltalake(table, rows.with_columns(id=3).to_arrow(), mode="append", storage_options=options)
    assert read_sources(chosen)[0].endswith("2 new rows")
    monkeypatch.setattr(s3, "refuses", True)
    with pytest.raises(UserError, match=r"gives no access .*-> set the store's credentials"):
        read_sources(chosen)


# Web servers


def served(web: Files, data: Path) -> str:
    web.content["/log.csv"] = (data / "interactions.csv").read_bytes()
    return f"{web.url}/log.csv"


def test_a_web_file_is_read_once_and_again_when_it_changes(web, data, tmp_path):
    chosen = recipe(tmp_path, interactions=served(web, data))
    night(chosen)
    web.read()
    assert all(result.cached for result in night(chosen)[1])
    assert plan(chosen, Store(chosen.runtime.store), "ingest")[0].state == "hit"
    assert web.read() == []
    web.content["/log.csv"] = one_more(data)
    assert plan(chosen, Store(chosen.runtime.store), "ingest")[0].state == "stale"
    assert [result.cached for result in night(chosen)[1]] == [False, False]


def test_a_server_that_names_no_version_is_read_each_time_and_the_content_decides(web, data, tmp_path):
    web.tagged = False
    chosen = recipe(tmp_path, interactions=served(web, data))
    night(chosen)
    (step,) = plan(chosen, Store(chosen.runtime.store), "ingest")
    assert step.state == "hit" and "does not say whether it has changed" in step.why[1]
    web.read()
    assert all(result.cached for result in night(chosen)[1])
    assert web.read() == ["/log.csv"]
    web.content["/log.csv"] = one_more(data)
    assert not night(chosen)[1][0].cached


def test_redirects_and_servers_that_allow_no_head(web, data, tmp_path):
    def answer(files: Files, request: BaseHTTPRequestHandler) -> bool:
        if request.command == "HEAD":
            send(request, b"", 405)
        elif request.path == "/moved":
            send(request, b"", 302, Location="/log.csv")
        else:
            return False
        return True

    served(web, data)
    web.answer = answer
    night(recipe(tmp_path, interactions=f"{web.url}/moved"))
    web.answer = lambda files, request: (
        request.path == "/away" and not send(request, b"", 302, Location="http://example.com/log.csv")
    )
    with pytest.raises(UserError, match=r"example\.com without encryption"):
        read_sources(recipe(tmp_path, interactions=f"{web.url}/away"))


def test_archives_and_other_layouts_are_read_from_the_web(web, data, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ratings.dat", "\n".join(f"{u}::{i}::5::{1_600_000_000 + u}" for u in range(9) for i in "abc"))
    web.content["/ratings.zip"] = packed.getvalue()
    web.content["/items.json"] = json.dumps([{"item_id": i, "title": i * 3} for i in "abc"]).encode()
    chosen = recipe(
        tmp_path,
        interactions=f"{web.url}/ratings.zip",
        interaction_format={"separator": "::", "header": False, "names": ["user_id", "item_id", "rating", "timestamp"]},
        items=f"{web.url}/items.json",
        item_format={"format": "json"},
    )
    (ingest, _) = night(chosen)[1]
    assert (ingest.report.rows_in, ingest.report.items) == (27, 3)


class Breaking:
    """Breaks off in the middle of the first answers."""

    def __init__(self, times: int, ranges: bool) -> None:
        self.times, self.ranges = times, ranges

    def __call__(self, files: Files, request: BaseHTTPRequestHandler) -> bool:
        content, begin = files.content[request.path], 0
        if request.command == "HEAD":
            return False
        if self.ranges and (wanted := request.headers.get("Range")):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        place = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        if self.times == 0:
            send(request, content[begin:], 206 if begin else 200, ETag='"1"', **place)
            return True
        self.times -= 1
        request.send_response_only(206 if begin else 200)
        for name, value in place.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content) - begin))
        request.send_header("ETag", '"1"')
        request.end_headers()
        request.wfile.write(content[begin : begin + 400])
        request.close_connection = True
        return True


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_broke_off(web, data, tmp_path, ranges):
    web.answer = Breaking(2, ranges)
    assert _tried(web, data, tmp_path) == ["", "bytes=400-", "bytes=800-" if ranges else "bytes=400-"]


def _tried(web: Files, data: Path, tmp_path: Path) -> list[str]:
    """Reads the log, which is whole at the end, and returns the ranges that were asked for."""
    chosen = recipe(tmp_path, interactions=served(web, data))
    read_sources(chosen)
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    assert Path(copy.place).read_bytes() == web.content["/log.csv"]
    return [wanted for method, _, wanted in web.asked if method == "GET"]


class Ending:
    """Ends every response to a whole read after `bytes` without an error, and answers the rest in the given way."""

    def __init__(self, count: int, rest: Callable[[bytes, BaseHTTPRequestHandler, str], None] | None) -> None:
        self.count, self.rest = count, rest

    def __call__(self, files: Files, request: BaseHTTPRequestHandler) -> bool:
        content = files.content[request.path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if request.command == "HEAD" or self.rest is None:
            return False
        if request.headers.get("Range"):
            rest, self.rest = self.rest, None
            rest(content, request, tag)
            return True
        request.send_response_only(200)
        request.send_header("ETag", tag)
        request.send_header("Connection", "close")  # which ends a response without Content-Length
        request.end_headers()
        request.wfile.write(content[: self.count])
        return True


def _refused(content: bytes, request: BaseHTTPRequestHandler, tag: str) -> None:
    send(request, b"", 416, Content_Range=f"bytes */{len(content)}")


def _from_the_beginning(content: bytes, request: BaseHTTPRequestHandler, tag: str) -> None:
    send(request, content, 206, ETag=tag, Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")


@pytest.mark.parametrize("rest", [_refused, _from_the_beginning])
def test_a_transfer_that_ends_early_without_an_error_is_read_completely(web, data, tmp_path, rest):
    web.answer = Ending(400, rest)
    assert _tried(web, data, tmp_path) == ["", "bytes=400-", ""]


def test_a_transfer_that_always_breaks_leaves_the_copy_as_it_was(web, data, tmp_path):
    chosen = recipe(tmp_path, interactions=served(web, data))
    night(chosen)
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    before = Path(copy.place).read_bytes()
    web.content["/log.csv"] = one_more(data)
    web.answer = Breaking(99, ranges=True)
    with pytest.raises(TransientError, match=r"log\.csv"):
        read_sources(chosen)
    assert Path(copy.place).read_bytes() == before
    assert run(chosen, "ingest")[0].cached


def test_a_server_that_is_away_is_told_and_the_plan_is_that_of_the_copy(web, data, tmp_path):
    chosen = recipe(tmp_path, interactions=served(web, data))
    store = Store(chosen.runtime.store)
    web.answer = lambda files, request: not send(request, b"", 503)
    (step,) = plan(chosen, store, "ingest")
    assert step.state == "blocked" and "503" in step.why[0]
    web.answer = lambda files, request: False
    night(chosen)
    web.answer = lambda files, request: not send(request, b"", 503)
    (step,) = plan(chosen, store, "ingest")
    assert step.state == "hit"
    assert "503" in step.why[1] and "this is the plan for the copy of" in step.why[1]
    with pytest.raises(TransientError):
        read_sources(chosen)


@pytest.mark.parametrize(("code", "words"), [(401, "put the credentials"), (404, "correct data.interactions")])
def test_what_a_web_server_refuses_is_told(web, tmp_path, code, words):
    web.answer = lambda files, request: not send(request, b"", code)
    with pytest.raises(UserError, match=words) as found:
        read_sources(recipe(tmp_path, interactions=f"{web.url}/log.csv"))
    assert str(code) in str(found.value)


def test_credentials_of_the_environment_reach_the_server_and_nothing_that_is_kept(web, data, tmp_path, monkeypatch):
    secret = "Tq7mZ2"
    monkeypatch.setenv("LOG_TOKEN", secret)
    served(web, data)
    seen: list[str] = []

    def answer(files: Files, request: BaseHTTPRequestHandler) -> bool:
        seen.append(request.path)
        if f"token={secret}" not in request.path:
            send(request, b"", 403)
        else:
            send(request, files.content["/log.csv"], ETag='"1"')
        return True

    web.answer = answer
    chosen = recipe(tmp_path, interactions=f"{web.url}/log.csv?token=${{LOG_TOKEN}}")
    night(chosen)
    assert all(secret in path for path in seen)
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []

    web.answer = lambda files, request: not send(request, b"", 500)
    with pytest.raises(TransientError) as found:
        read_sources(chosen)
    assert secret not in str(found.value)
    monkeypatch.delenv("LOG_TOKEN")
    with pytest.raises(UserError, match="the variable LOG_TOKEN is not set"):
        read_sources(chosen)


def test_a_truncated_copy_is_read_again(web, data, tmp_path):
    chosen = recipe(tmp_path, interactions=served(web, data))
    night(chosen)
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    Path(copy.place).write_bytes(b"user_id,item_id")
    (step,) = plan(chosen, Store(chosen.runtime.store), "ingest")
    assert step.state == "stale" and "is read as a whole" in step.why[0] and "truncated" in step.why[1]
    assert all(result.cached for result in night(chosen)[1])
    assert Path(copy.place).read_bytes() == web.content["/log.csv"]


def test_a_read_that_is_killed_in_the_middle_leaves_the_copy_and_the_next_one_finishes(web, data, tmp_path):
    chosen = recipe(tmp_path, interactions=served(web, data))
    night(chosen)
    web.content["/log.csv"] = one_more(data)

    def hang(files: Files, request: BaseHTTPRequestHandler) -> bool:
        if request.command == "GET":
            request.send_response_only(200)
            request.send_header("Content-Length", "100000")
            request.end_headers()
            request.wfile.write(b"user_id,")
            request.wfile.flush()
            child.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        return request.command == "GET"

    (tmp_path / "recipe.json").write_text(chosen.model_dump_json(exclude_defaults=True))
    script = (
        "import sys; from schemas.recipe import Recipe; from stages.prepare import read_sources\n"
        "read_sources(Recipe.model_validate_json(open(sys.argv[1]).read()))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "recipe.json")]
    web.answer = hang
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert child.wait(timeout=120) == -signal.SIGKILL
    assert run(chosen, "ingest")[0].cached

    web.answer = lambda files, request: False
    read_sources(chosen)
    (copy,) = copies_in(chosen.runtime.store / COPIES)
    assert Path(copy.place).read_bytes() == one_more(data)
