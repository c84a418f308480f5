"""The locks: they hold what pyproject.toml asks for, agree with each other, and name no place to download from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = sorted(Path("locks").glob("*.txt"))


def pins(*names: str) -> dict[str, str]:
    """Package to version."""
    text = "".join(Path("locks", f"{name}.txt").read_text() for name in names)
    return dict(re.findall(r"^([\w.-]+)==([^ \n]+)", text, re.MULTILINE))


def wanted(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "darec"]


@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (("cpu",), ["cpu"]),
        (("gpu",), ["gpu"]),
        (("cpu", "dev"), ["cpu", "dev", "research"]),
        (("cpu", "dev", "docs"), ["docs"]),
        *((("cpu", f"extra-{extra}"), [extra]) for extra in ("cloud", "databases", "ray", "tracking", "vectors")),
    ],
)
def test_a_lock_holds_what_the_project_asks_for(locks, extras):
    locked = pins(*locks)
    for requirement in wanted(*extras):
        version = locked.get(requirement.name)
        assert version and requirement.specifier.contains(version), f"{requirement}: {version}; run `make lock`"


def test_the_image_of_the_server_has_the_versions_of_the_worker():
    worker, server = pins("cpu"), pins("server")
    assert server.items() <= worker.items() and {"prefect", "asyncpg", "fastapi"} <= server.keys()


def test_torch_is_the_one_that_vllm_was_built_for():
    assert pins("torch-cpu") == {"torch": "2.13.0+cpu"} and "torch" not in pins("cpu")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_place_and_checks_what_it_gets(lock):
    text = lock.read_text()
    assert not re.search(r"https?:|file:|--index|--extra|--find|--trusted", text)
    if lock.stem != "torch-cpu":
        assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", text.strip()))


def test_everything_that_installs_takes_the_locks():
    makefile, dockerfile = Path("Makefile").read_text(), Path("docker/Dockerfile").read_text()
    installs = re.findall(r"pip\S* install (?:[^\n&\\]|\\\n)*", makefile + dockerfile, re.IGNORECASE)
    for line in installs:
        if not re.search(r"pip-audit|\buv\b", line):  # tools that have a separate environment
            assert "--no-deps" in line, line
