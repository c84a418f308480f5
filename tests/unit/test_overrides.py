"""The override language: dotted paths, lists, sections of several kinds; the same in every command."""

import pytest

from darec.common.errors import UserError
from darec.common.overrides import overlay, parse_settings
from darec.common.recipes import configure, load, load_recipe
from schemas.alignment import DaRecConfig, KARConfig
from schemas.backbones import LightGCNConfig, MFConfig
from schemas.bench import BenchRecipe, FloatRange, TuneRecipe
from schemas.recipe import Recipe
from schemas.training import TrainConfig

FILE = """
train:
  backbone: { name: lightgcn, layers: 2, edge_keep: 0.8 }
  alignment:
    - { name: darec, weight: 1.8e-3, text_temperature: 0.061 }
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "r.yaml").write_text(FILE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize(
    ("settings", "alignment"),
    [
        (["train.alignment.0.weight=0.3"], (DaRecConfig(weight=0.3, text_temperature=0.061),)),
        (["train.alignment.0.weights.uniformity=2"],
         (DaRecConfig(weight=1.8e-3, text_temperature=0.061, weights={"uniformity": 2}),)),
        (["train.alignment.0={weight: 0.3}"], (DaRecConfig(weight=0.3, text_temperature=0.061),)),
        (["train.alignment.0={name: darec, weight: 0.3}"], (DaRecConfig(weight=0.3, text_temperature=0.061),)),
        (["train.alignment.0={name: kar}"], (KARConfig(),)),
        (["train.alignment.0.name=kar"], (KARConfig(),)),
        (["train.alignment.1={name: kar, experts: 3}"],
         (DaRecConfig(weight=1.8e-3, text_temperature=0.061), KARConfig(experts=3))),
        (["train.alignment.1.name=kar", "train.alignment.1.experts=3"],
         (DaRecConfig(weight=1.8e-3, text_temperature=0.061), KARConfig(experts=3))),
        (["train.alignment=[]"], ()),
        (["train.alignment=[]", "train.alignment.0.name=kar"], (KARConfig(),)),
        (["train={alignment.0.weight: 0.3}"], (DaRecConfig(weight=0.3, text_temperature=0.061),)),
    ],
)  # fmt: skip
def test_lists_are_changed_entry_by_entry(path, settings, alignment):
    assert load_recipe(path, settings).train.alignment == alignment


@pytest.mark.parametrize(
    ("setting", "backbone"),
    [
        ("train.backbone.layers=1", LightGCNConfig(layers=1, edge_keep=0.8)),
        ("train.backbone={layers: 1}", LightGCNConfig(layers=1, edge_keep=0.8)),
        ("train.backbone.name=lightgcn", LightGCNConfig(layers=2, edge_keep=0.8)),
        ("train.backbone.name=mf", MFConfig()),
        ("train.backbone={name: mf}", MFConfig()),
    ],
)
def test_a_section_is_merged_unless_its_kind_changes(path, setting, backbone):
    assert load_recipe(path, [setting]).train.backbone == backbone


def test_a_path_through_a_field_that_is_not_set_starts_from_its_default():
    recipe = load_recipe(None, ["train.alignment.0.weight=0.3", "train.backbone.layers=1", "evaluate.cutoffs.0=7"])
    assert recipe.train.alignment == (DaRecConfig(weight=0.3),)
    assert recipe.train.backbone == LightGCNConfig(layers=1)
    assert recipe.evaluate.cutoffs == (7, 10, 20)


def test_a_path_sets_no_other_field_of_its_section(path):
    recipe = load_recipe(None, ["train.backbone.name=ease", "train.dim=64"])
    assert recipe.train.model_fields_set == {"backbone", "dim"}
    assert recipe.train.alignment == (), "the default objective is that of trained backbones"
    with pytest.raises(UserError, match=r"backbone: ease has a closed-form solution: set alignment to \[\] "):
        load_recipe(path, ["train.backbone.name=ease"])


def test_tables_of_free_keys_are_set_key_by_key_or_replaced():
    default = Recipe().gate.tolerances
    added = load_recipe(None, ["gate.tolerances.recall@10=0.2"]).gate.tolerances
    assert added == default | {"recall@10": 0.2}
    assert load_recipe(None, ["gate.tolerances={recall@10: 0.2}"]).gate.tolerances == {"recall@10": 0.2}
    assert load_recipe(None, ["gate.tolerances={}"]).gate.tolerances == {}


def test_what_is_given_is_not_changed():
    values, layer = {"train": {"alignment": [{"name": "kar"}]}}, {"train.alignment.0": {"experts": 3}}
    assert overlay(Recipe, values, layer, where="")["train"]["alignment"] == [{"name": "kar", "experts": 3}]
    assert values == {"train": {"alignment": [{"name": "kar"}]}} and layer == {"train.alignment.0": {"experts": 3}}


def test_benchmarks_and_searches_use_the_same_language(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(
        "name: t\ndata: {a: b}\nspace: {train.l2: {kind: float, low: 0.1, high: 1}}\nbase: {train: {dim: 8}}"
    )
    recipe = load(TuneRecipe, file, ["space.train.l2.low=0.2", "base.train.dim=4", "name=u"])
    assert recipe.space == {"train.l2": FloatRange(low=0.2, high=1.0)}
    assert recipe.base == {"train": {"dim": 4}} and recipe.name == "u"
    file.write_text("name: t\ndata: {a: b}\nalignments: {x: {alignment: [{name: darec, weight: 0.1}]}}")
    bench = load(BenchRecipe, file, ["alignments.x.alignment.0.weight=0.3"])
    config = configure(TrainConfig, bench.alignments["x"], {"alignment.0.centres": 4}, where="")
    assert config.alignment == (DaRecConfig(weight=0.3, centres=4),)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.alignment.2.weight=1", ["'train.alignment' is a list of 1", "no entry '2'", "train.alignment.1="]),
        ("train.alignment.1.weight=1", ["'train.alignment' is a list of 1", "no entry '1'"]),
        ("train.alignment.-1.weight=1", ["no entry '-1'", "change entry 0, or append"]),
        ("train.alignment.weight=1", ["'train.alignment' is a list of 1", "no entry 'weight'"]),
        ("train.alignment.0.wieght=1", ["train.alignment.0.wieght: unknown key", "did you mean 'weight'"]),
        ("train.alignment.0.weight.x=1", ["'train.alignment.0.weight' is not a section"]),
        ("train.alignmet.0.weight=1", ["train.alignmet: unknown key", "did you mean 'alignment'"]),
        ("trian.dim=1", ["trian: unknown key", "did you mean 'train'"]),
        ("train.dim", ["'train.dim' is not an override", "section.field=value"]),
        ("train..dim=1", ["'train..dim=1' is not an override"]),
        (".".join("a" * 3000) + "=1", ["is not an override"]),
        ("train.dim=[", ["the value of 'train.dim' is not valid YAML", "quotes"]),
        ("train.dim=010", ["the value of 'train.dim'", "'010'", "leading zeros"]),
        ("train.dim=true", ["train.dim", "valid integer", "given: true"]),
        ("train.dim='8'", ["train.dim", "valid integer", 'given: "8"']),
    ],
)
def test_a_path_or_value_that_is_wrong_is_told(path, setting, words):
    with pytest.raises(UserError) as caught:
        load_recipe(path, [setting])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_settings_are_laid_over_in_their_order():
    assert parse_settings(["train.dim=3", "train.dim=4"]) == [{"train.dim": 3}, {"train.dim": 4}]
    assert load_recipe(None, ["train.dim=3", "train.dim=4"]).train.dim == 4
