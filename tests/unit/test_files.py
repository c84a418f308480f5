"""Files that a user names: only regular ones, of a bounded size, in UTF-8."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from darec.common.errors import UserError
from darec.common.files import read_text, regular_file


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "in a file": (lambda path: path.parent.rmdir() or path.parent.write_text(""), "does not exist"),
    "folder": (Path.mkdir, "is a folder"),
    "named pipe": (os.mkfifo, "is a named pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "socket": (listen, "is a socket"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "too large": (lambda path: path.write_bytes(b"x" * 1025), "larger than 1 KiB"),
    "UTF-16": (lambda path: path.write_text("train: {}", encoding="utf-16"), "is UTF-16"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not UTF-8 text (byte 128 is 0x80)"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, make: Callable[[Path], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder" if words != "does not exist" else tmp_path)  # a socket's path is short
    path = Path("recipe.yaml") if words != "does not exist" else Path("folder/recipe.yaml")
    make(path)
    with pytest.raises(UserError) as caught:
        read_text(path, "the recipe", hint="see configs/", limit=1024)
    assert words in str(caught.value) and "recipe.yaml" in str(caught.value) and "-> " in str(caught.value)


@pytest.mark.timeout(120)
def test_a_file_that_waits_for_data_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/proc/kmsg")
    with suppress(UserError):  # the kernel's log may be short, long, or not for this user
        read_text(tmp_path / "log", "the recipe", hint="")


def test_a_path_with_a_nul_is_told() -> None:
    with pytest.raises(UserError, match=r"a\\x00b"):
        regular_file(Path("a\0b"), "the recipe", hint="see configs/")


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "prompt.j2").write_bytes(b"\xef\xbb\xbfhello \xc3\xa9")
    assert read_text(tmp_path / "prompt.j2", "the prompt", hint="") == "hello é"


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("file")
    assert regular_file(tmp_path / "link", "the prompt", hint="").st_size == 4
