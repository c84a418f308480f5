"""Files that a user names: only regular ones, of a bounded size, in UTF-8."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from darec.common.errors import UserError
from darec.common.files import check_writable, read_text, regular_file
from pipelines.cli import bench_dislikes, bench_fold_in, bench_refit, bench_run, compare, prompt, report
from tests.bench_samples import write_recipe


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


@pytest.mark.parametrize("name", ["page.html", "new/folder/page.html"])
def test_a_file_that_can_be_written_is_only_checked(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/page.html", "file/folder/page.html", "link/page.html", "/proc/page.html"])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"the file cannot be written \(.*\) .*page\.html\] -> name a path"):
        check_writable(tmp_path / place)


@pytest.mark.parametrize(
    "command",
    [
        lambda folder, out: compare.compare(folder / "missing.yaml", out=out),
        lambda folder, out: prompt.try_("profile_items", "missing.j2", out=out),
        lambda folder, out: report.report(out=out),
        lambda folder, out: bench_refit.refit(folder / "missing.yaml", out=out),
        lambda folder, out: bench_dislikes.dislikes(folder / "missing.yaml", out=out),
        lambda folder, out: bench_fold_in.fold_in(write_recipe(folder), out=out),
        lambda folder, out: bench_run.run(write_recipe(folder), store=folder / "store", out=out),
    ],
    ids=["compare", "prompt", "report", "refit", "dislikes", "fold-in", "run"],
)
def test_a_command_whose_result_cannot_be_written_does_no_work(
    command: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "board").mkdir()
    with pytest.raises(UserError, match="the file cannot be written") as found:
        command(tmp_path, tmp_path / "file" / "page.html")
    assert found.value.where.startswith(str(tmp_path / "file" / "page.html"))
    assert not (tmp_path / "store").exists()
