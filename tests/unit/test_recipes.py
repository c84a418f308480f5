"""Recipes: defaults, overrides, and errors that name the nearest known key."""

from pathlib import Path

import pytest

from darec.common.errors import UserError
from darec.common.recipes import load_recipe
from schemas.recipe import Recipe


def test_nothing_is_the_default_recipe(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(tmp_path / "empty.yaml") == load_recipe(None) == Recipe()


def test_overrides_beat_the_file_and_toml_equals_yaml(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("split: {k_core: 3}\n")
    (tmp_path / "r.toml").write_text("[split]\nk_core = 3\n")
    assert load_recipe(tmp_path / "r.yaml").split.k_core == 3
    assert load_recipe(tmp_path / "r.yaml") == load_recipe(tmp_path / "r.toml")
    assert load_recipe(tmp_path / "r.yaml", ["split.k_core=7"]).split.k_core == 7


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("splitt: {}", [], ["splitt", "unknown key", "did you mean 'split'"]),
        ("split: {kcore: 3}", [], ["split.kcore", "did you mean 'k_core'"]),
        ("train: {backbone: {name: lightgcn, layer: 2}}", [], ["layer", "did you mean 'layers'"]),
        ("train: {backbone: {name: lightgnc}}", [], ["lightgnc", "lightgcn"]),
        ("split: {k_core: many}", [], ["split.k_core", "many"]),
        ("split: 3", [], ["split"]),
        ("- a\n- b", [], ["not a table"]),
        ("a: [", [], ["not valid"]),
        ("", ["split.k_core"], ["is not an override", "section.field=value"]),
        ("", ["k_core=3"], ["is not an override"]),
        ("", ["split.k_core=[1"], ["not valid YAML"]),
        ("", ["split.kcore=3"], ["did you mean 'k_core'"]),
        ("split: {k_core: 3}", ["split.k_core.x=3"], ["is not a section"]),
    ],
)
def test_errors_say_what_where_and_how_to_mend(
    tmp_path: Path, text: str, overrides: list[str], words: list[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "->" in message


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
