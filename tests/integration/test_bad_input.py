"""What the user sees of bad input: one clear line that says what, where and how to fix; exit code 2, or 1 for ours."""

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from darec.common.errors import UserError
from darec.common.logs import configure
from darec.common.recipes import load_recipe
from pipelines.cli import app, guarded
from stages.prepare import prepare
from stages.walk import run
from tests.data import write_checkerboard
from tests.stores import flip_a_bit

LOG = "interactions.csv"
TIME = 1_700_000_000
RATED = "data.interaction_columns.rating=rating"
Edit = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    name: str
    edit: Edit
    words: tuple[str, ...]
    until: str = "split"
    overrides: tuple[str, ...] = ()
    code: int = 2


def replace(file: str, old: str, new: str) -> Edit:
    return lambda folder: (folder / file).write_text((folder / file).read_text().replace(old, new))


def write(file: str, content: str | bytes) -> Edit:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def rows(*lines: str) -> Edit:
    return write(LOG, "\n".join(["user_id,item_id,rating,timestamp,split", *lines, ""]))


def leave(folder: Path) -> None:
    """The data is fine; the recipe or the machine is not."""


def as_parquet(folder: Path, cut: int | None = None) -> None:
    import polars as pl

    path = folder / "interactions.parquet"
    pl.read_csv(folder / LOG).write_parquet(path)
    path.write_bytes(path.read_bytes()[:cut])


PARQUET = ("data.source=parquet", "data.interactions=interactions.parquet")
TEXT = ("train.alignment=[{name: darec}]",)

CASES = [
    # the files
    Case("missing file", lambda f: (f / LOG).unlink(), ("interactions file does not exist", LOG)),
    Case("folder for a file", leave, ("folder, not a file", "several kinds"), overrides=("data.interactions=.",)),
    Case("missing items file", lambda f: (f / "items.csv").unlink(), ("items file does not exist",)),
    Case("empty file", write(LOG, ""), (LOG,)),
    Case("header only", rows(), ("no rows", LOG)),
    Case("binary file", write(LOG, bytes(range(256)) * 40), (LOG,)),
    Case("wrong encoding", write(LOG, "user_id,item_id,timestamp\nJos\xe9,i1,5\n".encode("latin-1")), (LOG,)),
    Case("not parquet", write("interactions.parquet", "hello"), ("interactions.parquet",), overrides=PARQUET),
    Case("truncated parquet", lambda f: as_parquet(f, 300), ("interactions.parquet",), overrides=PARQUET),
    # the columns
    Case("wrong column", replace(LOG, "user_id", "uid"), ("no column 'user_id'",)),
    Case("nearest column", replace(LOG, "user_id", "user_ids"), ("user_id", "user_ids")),
    Case("text for timestamps", replace(LOG, "17", "xx"), ("timestamp",)),
    Case("text for ratings", replace(LOG, ",4,", ",good,"), ("rating",), overrides=(RATED,)),
    # the rows
    Case("one user", rows(*(f"u1,i00{n},5,{TIME + n}," for n in range(3))), ("user",)),
    Case("one item", rows(*(f"u{n},i001,5,{TIME + n}," for n in range(3))), ("item",)),
    Case("single interactions", rows(*(f"u{n},i00{n},5,{TIME + n}," for n in range(9))), ("interaction",)),
    Case("all ids empty", rows(f",,5,{TIME},", f",,5,{TIME},"), ("empty",)),
    Case("all ratings NaN", rows(f"u1,i001,NaN,{TIME},", f"u2,i002,NaN,{TIME},"), ("rating",), overrides=(RATED,)),
    Case("infinite ratings", rows(f"u1,i001,inf,{TIME},", f"u2,i002,inf,{TIME},"), ("rating",), overrides=(RATED,)),
    Case("negative timestamps", rows("u1,i1,5,-1,", "u2,i2,5,-2,"), ("timestamp",)),
    Case("duplicate item ids", lambda f: _append(f / "items.csv", "i000,Again,x,1999,Drama\n"), ("i000", "items")),
    Case("items unknown to the items file", write("items.csv", "item_id,title\nzzz,Other\n"), ("item",)),
    # the configuration
    Case("k-core removes all", leave, ("k_core",), overrides=("split.k_core=1000",)),
    Case("threshold removes all", leave, ("min_rating",), overrides=(RATED, "data.min_rating=9")),
    Case(
        "unknown split label",
        replace(LOG, ",test", ",exam"),
        ("exam",),
        overrides=("split.strategy=column", "data.interaction_columns.split=split"),
    ),
    Case("ratios", leave, ("ratios", "sum to 1"), overrides=("split.ratios=[0.5,0.2,0.1]",)),
    Case("no path", leave, ("interactions",), overrides=("data.interactions=null",)),
    Case("unknown section", leave, ("did you mean 'split'",), overrides=("splits.k_core=1",)),
    Case("unknown field", leave, ("did you mean 'k_core'",), overrides=("split.k_cores=1",)),
    Case("unknown backbone", leave, ("lightgcnn", "lightgcn"), overrides=("train.backbone={name: lightgcnn}",)),
    Case("wrong type", leave, ("train.epochs", "many"), overrides=("train.epochs=many",)),
    Case("negative value", leave, ("train.dim",), overrides=("train.dim=-1",)),
    Case("not a number", leave, ("train.l2",), overrides=("train.l2=.nan",)),
    Case("no cutoffs", leave, ("evaluate.cutoffs",), until="publish", overrides=("evaluate.cutoffs=[]",)),
    # prompts and models
    Case(
        "unknown variable",
        write("p.j2", "{% block system %}x{% endblock %}{% block user %}{{ titel }}{% endblock %}"),
        ("titel", "p.j2", "title"),
        "profile_items",
        (*TEXT, "profile_items.prompt=p.j2"),
    ),
    Case(
        "broken template",
        write("p.j2", "{% block system %}"),
        ("p.j2",),
        "profile_items",
        (*TEXT, "profile_items.prompt=p.j2"),
    ),
    Case("missing template", leave, ("nowhere.j2",), "profile_items", (*TEXT, "profile_items.prompt=nowhere.j2")),
    Case("missing model folder", leave, ("models/none",), "profile_items", (*TEXT, "llm.model=models/none")),
    Case(
        "incomplete model folder",
        lambda f: (f / "half").mkdir(),
        ("half",),
        "profile_items",
        (*TEXT, "llm.model=./half"),
    ),
    Case("missing encoder", leave, ("models/none",), "embed", (*TEXT, "embed.model=models/none")),
    Case(
        "no server",
        leave,
        ("127.0.0.1:9",),
        "profile_items",
        (*TEXT, "llm.engine=server", "llm.server_url=http://127.0.0.1:9/v1", "llm.retries=0"),
        1,
    ),
    # the store
    Case("store is a file", lambda f: (f / "s").write_text(""), ("s",), overrides=("runtime.store=s",)),
]


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_checkerboard(tmp_path)
    recipe = {
        "data": {"source": "csv", "interactions": LOG, "items": "items.csv"},
        "split": {"k_core": 1},
        "train": {"alignment": [], "epochs": 2},
        "runtime": {"store": "store"},
    }  # fmt: skip
    recipe["data"]["interaction_columns"] = {"timestamp": "timestamp"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "prompts").symlink_to(Path("prompts").resolve())
    monkeypatch.setenv("DAREC_MODELS", str(Path("data/models").resolve()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(until: str, overrides: tuple[str, ...]) -> int:
    def prepared_run() -> None:
        recipe = load_recipe(Path("recipe.yaml"), overrides)
        prepare(recipe)
        run(recipe, until)

    configure("text")  # as the command does: to standard error, which the test captures
    return guarded(prepared_run)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_clear_line(case: Case, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.edit(folder)
    code = outcome(case.until, case.overrides)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, lines
    assert code == case.code, lines[0]
    assert "Traceback" not in lines[0] and "->" in lines[0], lines[0]
    assert all(word.lower() in lines[0].lower() for word in case.words), lines[0]


def test_a_faulty_prompt_of_the_last_text_stage_is_found_before_the_first(folder: Path) -> None:
    """The folder's prompts are a link to those of the project: this test has a prompt beside it."""
    (folder / "text.j2").write_text("{% block text %}{{ titel }}{% endblock %}")
    settings = ("train.alignment=[{name: darec}]", "llm.engine=server", "embed.item_prompt=text.j2")
    with pytest.raises(UserError, match=r"unknown variable 'titel' \[text.j2:1\]"):
        prepare(load_recipe(Path("recipe.yaml"), settings))


def test_there_are_forty_cases() -> None:
    assert len(CASES) + len(GOOD) >= 40


GOOD = {
    "unicode": replace("items.csv", "Merry", "Joyeux 🎉 Ωmega \u202e"),
    "a title of 100 kB": replace("items.csv", "Merry Picnic 0", "Merry " * 17_000),
    "duplicate rows": lambda folder: _append(folder / LOG, (folder / LOG).read_text().split("\n", 1)[1]),
    "byte order mark": lambda folder: (folder / LOG).write_bytes(b"\xef\xbb\xbf" + (folder / LOG).read_bytes()),
    "a few bad rows": lambda folder: _append(folder / LOG, "u000,,5,1700000000,train\n"),
}


@pytest.mark.parametrize("edit", GOOD.values(), ids=GOOD)
def test_what_can_be_mended_is(edit: Edit, folder: Path) -> None:
    edit(folder)
    assert outcome("split", ()) == 0


def test_a_corrupted_artifact_is_made_anew(folder: Path) -> None:
    recipe = load_recipe(Path("recipe.yaml"))
    artifact = run(recipe, "ingest")[0].artifact
    assert artifact is not None
    for name in artifact.manifest.files:
        flip_a_bit(artifact.path / name)
        again = run(recipe, "ingest")[0]
        assert again.why == ("its artifact was damaged",)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize(("options", "word"), [("size=16k", "disk is full"), ("ro", "cannot be written")])
def test_a_store_that_cannot_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, word: str
) -> None:
    (folder / "store").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder / "store"], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        assert outcome("split", ("runtime.min_free_gb=0",)) == 2
    finally:
        subprocess.run(["umount", "-l", folder / "store"], check=True)
    assert word in capsys.readouterr().err


def test_a_traceback_only_with_debug(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAREC_DEBUG", "1")
    assert outcome("ingest", ("data.interactions=none.csv",)) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status", "--until", "trian"], ("trian", "did you mean 'train'")),
        (["explain", "evalute"], ("evalute", "did you mean 'evaluate'")),
        (["explain", "train"], ("no artifact yet", "darec run")),
        (["recommend", "--user", "u000"], ("nothing has been published yet",)),
        (["status", "--recipe", "none.yaml"], ("recipe does not exist", "none.yaml")),
        (["data", "fetch", "ml-200k"], ("ml-200k", "ml-100k")),
        (["rollback"], ("release",)),
    ],
)
def test_commands(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]
) -> None:
    recipe = [] if "--recipe" in arguments else ["--recipe", "recipe.yaml"]
    assert guarded(lambda: app([*arguments, *recipe], standalone_mode=False)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error:") and all(word in message for word in words), message


def test_a_full_disk_is_told_whoever_meets_it(capsys, caplog):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/file")

    assert guarded(write) == 2
    assert "the disk is full [/cache/file] -> free space" in caplog.text + capsys.readouterr().err
