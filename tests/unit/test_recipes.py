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
        ("train.dim: 8", [], ["train.dim: unknown key", "write the field under 'train'"]),
        ("splitt: {}", [], ["splitt", "unknown key", "did you mean 'split'"]),
        ("split: {kcore: 3}", [], ["split.kcore", "did you mean 'k_core'"]),
        ("train: {backbone: {name: lightgcn, layer: 2}}", [], ["layer", "did you mean 'layers'"]),
        ("train: {backbone: {name: lightgnc}}", [], ["train.backbone.name: ", "one of mf, lightgcn, ", '"lightgnc"']),
        ("train: {backbone: lightgcn}", [], ["train.backbone: Input should be a table", '"lightgcn"']),
        ("train: {alignment: [{nam: darec}]}", [], ["train.alignment.0.name: ", "one of darec, rlm", "(not given)"]),
        ("split: {k_core: many}", [], ["split.k_core", "many"]),
        ("split: 3", [], ["split"]),
        ("- a\n- b", [], ["not a table"]),
        ("a: [", [], ["not valid"]),
        ("", ["split.k_core"], ["is not an override", "section.field=value"]),
        ("", ["k_core=3"], ["k_core: unknown key", "known: data, embed"]),
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


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "r.yaml",
            "split:\n  k_core: 3\n  seed: 1\n  k_core: 4",
            ["line 4", "'k_core' is given twice, in lines 2 and 4"],
        ),
        ("r.yaml", "split: {k_core: 3}\ntrain: {}\nsplit: {}", ["'split' is given twice, in lines 1 and 3"]),
        ("r.toml", "[split]\nk_core = 3\n[split]\nseed = 1", ["split", "line 3"]),
        ("r.yaml", "split: {k_core: true}", ["split.k_core", "valid integer", "given: true"]),
        ("r.toml", "[split]\nk_core = true", ["split.k_core", "valid integer", "given: true"]),
        ("r.yaml", "split: {k_core: 5.0}", ["split.k_core", "valid integer", "given: 5.0"]),
        ("r.yaml", "split: {k_core: .inf}", ["split.k_core", "valid integer", "given: Infinity"]),
        ("r.yaml", "train: {l2: .inf}", ["train.l2", "finite"]),
        ("r.yaml", "train: {l2: .nan}", ["train.l2", "finite"]),
        ("r.yaml", "train: {l2: true}", ["train.l2", "valid number", "given: true"]),
        ("r.yaml", "train: {l2: '0.1'}", ["train.l2", "valid number", 'given: "0.1"']),
        ("r.yaml", "train: {warm_start: 1}", ["train.warm_start", "valid boolean", "given: 1"]),
        ("r.yaml", "split:\n  k_core: 010", ["line 2", "'010'", "leading zeros"]),
        ("r.yaml", "split:\n  k_core: 1:30", ["line 2", "'1:30'"]),
        ("r.yaml", "train:\n  warm_start: yes", ["line 2", "'yes'", "true or false"]),
        ("r.yaml", "llm: {revision: 1234567}", ["llm.revision", "valid string", "put it in quotes"]),
        ("r.yaml", f"a: {DEEP}", ["nested more than 32 deep"]),
        ("r.toml", f"a = {DEEP}", ["nested more than 32 deep"]),
        ("r.toml", f"a = {DEEP[2950:3050]}", ["nested more than 32 deep"]),
        ("r.yaml", f"split: {{k_core: {'9' * 5000}}}", ["digits"]),
        ("r.yaml", "# " + "x" * 2**17, ["larger than 128 KiB"]),
        ("r.yaml", "a: 1\n---\nb: 2", ["line 2", "document"]),
        ("r.toml", "a = 1\nb = ", ["not valid", "end of document"]),
    ],
)
def test_what_a_file_may_not_hold(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / name)
    assert all(word in str(caught.value) for word in [*words, name]), str(caught.value)


def test_dates_of_toml_are_texts(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[llm]\nrevision = 2024-01-31\n")
    assert load_recipe(tmp_path / "r.toml").llm.revision == "2024-01-31"


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    for name, text in (("r.yaml", "split: {k_core: 3}"), ("r.toml", "split = {k_core = 3}")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert load_recipe(tmp_path / name).split.k_core == 3
