"""Fetching from a server and from a package, both made here: no network."""

import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from darec.common.errors import TransientError, UserError
from darec.dataset import fetch as module
from darec.dataset.fetch import fetch

ORIGINAL = {"u.data": b"1\t1\t5\t1\n", "u.item": b"1|A\n", "u.user": b"1|20|M|x|1\n"}
ATOMIC = {"ml-100k.inter": b"user_id:token\n", "ml-100k.item": b"item_id:token\n", "ml-100k.user": b"user_id:token\n"}


def write_zip(path: Path, prefix: str, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """GroupLens's server, with a small archive whose checksum is the known one."""
    folder = tmp_path / "server"
    folder.mkdir()
    archive = write_zip(folder / "ml-100k.zip", "ml-100k/", ORIGINAL)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        monkeypatch.setattr(module, "GROUPLENS_URL", f"http://127.0.0.1:{listening.server_port}/ml-100k.zip")
        monkeypatch.setattr(module, "GROUPLENS_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield archive
        listening.shutdown()
        thread.join()


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """pip's only source of packages: a folder with a small `recbole` whose files are the known ones."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "recbole-1.2.1-py3-none-any.whl"
    write_zip(wheel, "recbole/dataset_example/ml-100k/", ATOMIC)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr("recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("recbole-1.2.1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    known = {name: hashlib.sha256(content).hexdigest() for name, content in ATOMIC.items()}
    monkeypatch.setattr(module, "WHEEL_SHA256", known)
    return wheel


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.setattr(module, "GROUPLENS_URL", "http://127.0.0.1:9/ml-100k.zip")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_takes_grouplens_archive_when_it_can_be_reached(tmp_path, server):
    target = tmp_path / "raw" / "ml-100k"
    assert fetch("ml-100k", target) == target
    assert contents(target) == ORIGINAL
    assert list(target.parent.iterdir()) == [target], "nothing else is left behind"


def test_files_are_flushed_before_they_have_their_names(tmp_path, server, monkeypatch):
    flushed = []
    monkeypatch.setattr("darec.dataset.fetch.flush", lambda path: flushed.append((path.name, path.read_bytes())))
    fetch("ml-100k", tmp_path / "ml")
    assert dict(flushed) == ORIGINAL


def test_takes_the_package_when_the_server_is_away(tmp_path, no_server, wheels):
    fetch("ml-100k", tmp_path / "ml")
    assert contents(tmp_path / "ml") == ATOMIC


def test_takes_the_package_when_the_archive_is_not_the_known_one(tmp_path, server, wheels):
    write_zip(server, "ml-100k/", {"u.data": b"evil"})
    fetch("ml-100k", tmp_path / "ml")
    assert contents(tmp_path / "ml") == ATOMIC


def test_does_nothing_when_the_files_are_there_even_if_edited(tmp_path, no_server, monkeypatch):
    for name in ORIGINAL:
        (tmp_path / name).write_bytes(b"mine")
    fetch("ml-100k", tmp_path)
    assert contents(tmp_path) == dict.fromkeys(ORIGINAL, b"mine")


def test_completes_what_a_killed_fetch_left(tmp_path, server):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.item").write_bytes(b"half")
    fetch("ml-100k", tmp_path / "ml")
    assert contents(tmp_path / "ml") == ORIGINAL


def test_refuses_altered_files_of_the_package_and_leaves_nothing(tmp_path, no_server, wheels, monkeypatch):
    monkeypatch.setattr(module, "WHEEL_SHA256", dict.fromkeys(ATOMIC, "0" * 64))
    with pytest.raises(TransientError, match=r"ml-100k.inter has a wrong checksum") as caught:
        fetch("ml-100k", tmp_path / "ml")
    assert contents(tmp_path / "ml") == {}
    assert "put u.data, u.item, u.user" in caught.value.hint


def test_says_why_each_way_failed(tmp_path, no_server, wheels):
    wheels.unlink()
    with pytest.raises(TransientError) as caught:
        fetch("ml-100k", tmp_path / "ml")
    assert "127.0.0.1:9" in caught.value.what
    assert "recbole==1.2.1 could not be downloaded: ERROR" in caught.value.what
    assert caught.value.where == str(tmp_path / "ml")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be stored"):
        fetch("ml-100k", tmp_path / "file" / "ml")


def test_an_unknown_name(tmp_path):
    with pytest.raises(UserError, match=r"no data set 'ml-1m' to fetch.*known: ml-100k"):
        fetch("ml-1m", tmp_path)
