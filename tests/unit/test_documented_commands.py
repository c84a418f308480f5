"""The recipes, commands and programs that README and the documentation show are accepted by darec as they are."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from darec.common.recipes import configure, load_recipe
from pipelines.cli import app
from schemas.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page: Path) -> list[tuple[str, bool]]:
    """The command lines of a page after the word darec, and whether each is in a block and therefore complete."""
    shown = [(line, True) for text in blocks(page, "sh") for line in text.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    shown += [(" ".join(text.split()), False) for text in re.findall(r"`([^`]+)`", prose)]
    found = [(re.match(r"(?:\w+=\S+ |time |export \S+; )*darec (.*)", line), whole) for line, whole in shown]
    return [(match[1], whole) for match, whole in found if match]


def parse(words: list[str], whole: bool) -> dict[str, Any]:
    """The parameters of a command. In prose, `darec COMMAND` without arguments only names a command."""
    command, path = COMMANDS, ["darec"]
    while (group := getattr(command, "commands", None)) and words:
        name = words.pop(0)
        if name.startswith("-"):
            assert any(name in option.opts for option in command.params), f"{path} has no {name}"
            return {}
        assert name in group, f"{path} has no {name}"
        command = group[name]
        path.append(name)
    if group or not (words or whole):
        return {}
    return command.make_context(" ".join(path), words).params


def lines() -> list:
    return [
        pytest.param(line, whole, id=f"{page.relative_to(ROOT)}: {line[:60]}")
        for page in PAGES
        for line, whole in dict.fromkeys(commands(page))
    ]


@pytest.mark.parametrize(("line", "whole"), lines())
def test_a_command_is_accepted_by_the_parser(line, whole, monkeypatch):
    monkeypatch.chdir(ROOT)
    shell = re.split(r" [>|&] | && | ;|; ", re.sub(r"\[(--[^]]*)\]|\.\.\.$", r"\1", line))[0]
    words = shlex.split(shell, comments=True)
    given = parse(words, whole)
    if not line.startswith(("bench", "tune")) and "mine" not in line:
        load_recipe(None, [override.replace("=N", "=1") for override in given.get("overrides") or ()])


def test_commands_are_found():
    found = {line for page in PAGES for line, _ in commands(page)}
    assert {"recommend --user 42          # titles of unseen items", "data inspect", "doctor"} <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_and_programs_are_valid(page):
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "yaml"):
        values = yaml.safe_load(text)
        if set(values) <= set(Recipe.model_fields):
            configure(Recipe, values, where=page.name)
