"""What is printed of text from outside: no code in a title, an id, a recipe or a path reaches the terminal."""

import json
import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.data import write_checkerboard
from tests.nursery import Commands
from tests.processes import unconfigured

Darec = Callable[..., tuple[int, str]]
DAREC = Path(sys.executable).with_name("darec")
EVIL = "\x1b[31mred\x1b]8;;http://x.example\x07link\x1b]52;c;ZWNobw==\x07\x9b2J\x85\u202egnp\u2066\x7f\x00"
KEYBOARD = "\r\b"  # CSV readers may take a carriage return for the end of a row: only where no CSV is read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    write_checkerboard(folder)
    for name, columns in (("interactions", ("user_id", "item_id")), ("items", ("item_id", "title", "genres"))):
        table = pl.read_csv(folder / f"{name}.csv")
        evil = [(pl.col(column) + EVIL.replace("\x00", "")).alias(column) for column in columns]
        table.with_columns(evil).write_parquet(folder / f"{name}.parquet")
    recipe = {
        "data": {
            "source": "parquet",
            "interactions": "interactions.parquet",
            "items": "items.parquet",
            "interaction_columns": {"timestamp": "timestamp", "split": "split"},
        },
        "split": {"strategy": "column"},
        "train": {"alignment": [], "epochs": 3},
        "runtime": {"store": "store", "min_free_gb": 0.1},
        "gate": {"minimums": {}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def environment(folder: Path) -> dict[str, str]:
    kept = unconfigured()
    return kept | {"PREFECT_HOME": str(folder / "prefect"), "DAREC_RECIPE": "recipe.yaml", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def darec(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darec]:
    """Exit code and all output, without a terminal: there every control character is somebody else's."""
    with Commands(folder, environment(folder), tmp_path_factory.mktemp("outputs")) as commands:
        yield commands.run


def in_terminal(folder: Path, *arguments: str) -> str:
    """All that a terminal gets."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [DAREC, *arguments], cwd=folder, env=environment(folder), stdin=follower, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        output = b""
        while True:
            try:
                output += os.read(leader, 65536)
            except OSError:  # the process has closed its side
                break
    os.close(leader)
    assert process.returncode == 0
    return output.decode()


def harmful(text: str) -> set[str]:
    return {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")} - set("\n\t\u200d")


@pytest.fixture(scope="module")
def published(darec: Darec, folder: Path) -> str:
    code, output = darec("run")
    assert code == 0, output
    assert harmful(output) == set()
    return output


USER = f"u000{EVIL}".replace("\x00", "")
ITEM = f"i001{EVIL}".replace("\x00", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("recommend", "--user", USER, "-k", "3"),
        ("recommend", "--user", f"nobody{USER}"),
        ("recommend", "--user", USER, "--json"),
        ("similar", "--item", ITEM),
        ("similar", "--item", f"{KEYBOARD}{ITEM}"),
        ("similar", "--item", ITEM, "--json"),
        ("status",),
        ("explain", "ingest"),
        ("explain", f"train{USER}"),
        ("releases",),
        ("rollback", "--why", USER),
        ("promote", USER),
        ("diff", USER, USER),
        ("report", "--out", f"{KEYBOARD}{USER.replace('/', '')}.html"),
        ("status", "--set", f"train.{USER}=3"),
        ("status", "--set", f"train.dim={KEYBOARD}{USER}"),
        ("--debug", "status", "--until", USER),
        ("status", "--recipe", f"{USER}.yaml"),
        ("run", "--until", "ingest", "--set", f"data.interactions={json.dumps(USER)}"),
        ("config", "show", "--set", f"llm.model={json.dumps(USER + KEYBOARD)}"),
        ("doctor", "--set", f"llm.model={json.dumps(USER + KEYBOARD)}"),
    ],
    ids=lambda arguments: " ".join(word for word in arguments if word.isascii() and word.isprintable()),
)
def test_no_control_character_is_printed(
    darec: Darec, folder: Path, published: str, arguments: tuple[str, ...]
) -> None:
    _, output = darec(*arguments)
    assert output and harmful(output) == set(), [hex(ord(sign)) for sign in harmful(output)]


def test_json_is_escaped_and_means_the_same(darec: Darec, folder: Path, published: str) -> None:
    code, output = darec("similar", "--item", ITEM, "--json", "-k", "1")
    (first,) = json.loads(output)
    assert code == 0 and harmful(first["item_id"]) == harmful(ITEM) and first["item_id"].endswith(ITEM[4:])


def test_a_recipe_that_is_shown_is_read_back(darec: Darec, folder: Path) -> None:
    model = json.dumps(f"{USER}{KEYBOARD}yes")
    code, shown = darec("config", "show", "--set", f"llm.model={model}")
    (folder / "shown.yaml").write_text(shown)
    assert (code, shown) == darec("config", "show", "--recipe", "shown.yaml")
    assert yaml.safe_load(shown)["llm"]["model"] == json.loads(model)


def test_in_a_terminal_only_the_program_itself_gives_codes(folder: Path, published: str) -> None:
    for arguments in (("recommend", "--user", USER), ("similar", "--item", ITEM), ("status",), ("explain", "ingest")):
        output = in_terminal(folder, *arguments)
        assert "\x1b[" in output, "the program's own colours are there"
        for code in ("\x1b]", "\x1b[31mred", "\x07", "\x9b", "\u202e", "\u2066", "\x7f", "\x85"):
            assert code not in output, repr(code)


def test_codes_in_a_recipe_s_keys_are_shown(darec: Darec, folder: Path) -> None:
    (folder / "keys.yaml").write_text(yaml.safe_dump({"train": {f"dim{USER}": 3}}))
    code, output = darec("status", "--recipe", "keys.yaml")
    assert code == 2 and "\\u001b" in output and harmful(output) == set()


@pytest.mark.parametrize(
    "name", ["interactions.parquet", "recipe.yaml", "store", "/proc/x", "/proc/version", "recipe.yaml/x"]
)
def test_a_report_is_written_over_nothing_else(darec: Darec, folder: Path, published: str, name: str) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for options in ((), ("--overwrite",)):
        code, output = darec("report", "--out", name, *options)
        assert code == 2 and output.count("\n") == 1 and output.startswith("error: "), output
        assert name in output and "->" in output and "report it" not in output
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_report_is_replaced_when_asked(darec: Darec, folder: Path, published: str) -> None:
    assert darec("report", "--out", "r.html") == (0, "r.html\n")
    (folder / "r.html").write_text((folder / "r.html").read_text() + "<!-- the one before -->")
    code, output = darec("report", "--out", "r.html")
    assert code == 2 and "add --overwrite" in output
    assert darec("report", "--out", "r.html", "--overwrite") == (0, "r.html\n")
    assert "the one before" not in (folder / "r.html").read_text()


@pytest.mark.parametrize("limit", [400, 600, 900, 1200, 2000])
@pytest.mark.parametrize(
    "arguments", [("run",), ("recommend", "--user", "u000"), ("status",)], ids=lambda each: each[0]
)
def test_too_little_memory_is_one_line(folder: Path, arguments: tuple[str, ...], limit: int) -> None:
    """The libraries would hang, abort or leave half-loaded modules behind."""
    limited = ["bash", "-c", f'ulimit -v {limit * 1024}; exec "$@"', "darec", DAREC, *arguments]
    done = subprocess.run(
        limited, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert f"error: this process may use {limit:,} MiB of memory" in done.stderr and "-> raise the limit" in done.stderr


def test_a_rollback_needs_little_memory(folder: Path) -> None:
    limited = ["bash", "-c", f'ulimit -v {200 * 1024}; exec "$@"', "darec", DAREC, "rollback"]
    done = subprocess.run(
        limited, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300, check=False
    )
    assert "ulimit" not in done.stderr and "release" in done.stderr
