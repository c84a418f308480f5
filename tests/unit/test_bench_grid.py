"""Overrides, grids and keys of benchmarks."""

import json
from pathlib import Path

import pytest

from benchmarks.data import BenchData, from_folder, sources
from benchmarks.grid import expand
from benchmarks.runs import Run, agrees, chosen
from darec.common.errors import UserError
from darec.common.recipes import configure
from pipelines.cli import bench_table
from pipelines.cli.bench_options import open_grid
from schemas.alignment import DaRecConfig, KARConfig
from schemas.bench import BenchRecipe
from schemas.training import EvaluateConfig, TrainConfig
from tests.bench_samples import write_board, write_recipe
from tests.data import CHECKERBOARD, write_checkerboard


def recipe(**values) -> BenchRecipe:
    return BenchRecipe.model_validate({"name": "t", "data": {"a": "a", "b": "b"}, **values})


def test_grid_is_the_product_seed_by_seed():
    entries = expand(recipe(backbones={"x": {}, "y": {}}, alignments={"none": {"alignment": []}}, seeds=[3, 4]))
    assert [(entry.seed, entry.data, entry.backbone) for entry in entries] == [
        (seed, data, backbone) for seed in (3, 4) for data in "ab" for backbone in "xy"
    ]
    assert all(entry.config.seed == entry.seed and entry.config.alignment == () for entry in entries)


def test_special_overrides_reach_only_their_entries():
    entries = expand(recipe(special=[{"data": "b", "set": {"l2": 0.5}}]))
    assert {entry.data: entry.config.l2 for entry in entries} == {"a": TrainConfig().l2, "b": 0.5}


def test_a_sweep_adds_an_alignment_for_each_value():
    sweep = {"label": "K", "of": "darec", "field": "alignment.0.centres", "values": [2, 4]}
    entries = expand(recipe(alignments={"darec": {"alignment": [{"name": "darec"}]}}, sweeps=[sweep]))
    centres = {entry.alignment: entry.config.alignment[0].centres for entry in entries}
    assert centres == {"darec": 8, "darec K=2": 2, "darec K=4": 4}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": {"epohcs": 3}}, "did you mean 'epochs'"),
        ({"alignments": {"x": {"alignment.1.weight": 1}}}, "'alignment' is a list of 1: it has no entry '1'"),
        ({"alignments": {"x": {"alignment.2.weight": 1}}}, "'alignment' is a list of 1: it has no entry '2'"),
        ({"alignments": {"x": {"alignment.first.weight": 1}}}, "'alignment' is a list of 1: it has no entry 'first'"),
        ({"special": [{"set": {"dim.x": 1}}]}, "'dim' is not a section"),
        ({"special": [{"data": "c", "set": {}}]}, "data 'c' is not in the recipe"),
        ({"sweeps": [{"label": "K", "of": "x", "field": "l2", "values": [1]}]}, "'x' is not an alignment"),
    ],
)
def test_bad_recipes_say_what_is_wrong(values, message):
    with pytest.raises(UserError, match=message):
        expand(recipe(**values))


def run(data: BenchData, *layers: dict) -> Run:
    config = configure(TrainConfig, *layers, where="test")
    entry = expand(recipe())[0].__class__("a", "x", "none", 0, config)
    return Run(entry, data, EvaluateConfig())


def test_keys_follow_configuration_and_the_data_that_is_seen(tmp_path):
    data = from_folder("board", write_board(tmp_path))
    other_text = BenchData(data.name, data.interactions, data.text, data.content, "other")
    other_data = BenchData(data.name, data.interactions, data.text, "other", data.text_content)
    plain = {"alignment": []}
    assert run(data, plain).key == run(data, plain, {"device": "cpu"}, {"epochs": TrainConfig().epochs}).key
    assert run(data, plain).key != run(data, plain, {"epochs": 7}).key
    assert run(data, plain).key != run(other_data, plain).key
    assert run(data, plain).key == run(other_text, plain).key, "without alignment the text is not seen"
    assert run(data).key != run(other_text).key


def test_chosen_tells_kinds_apart_and_leaves_defaults_out():
    assert chosen(TrainConfig(alignment=(KARConfig(),))) == {"alignment": [{"name": "kar"}]}
    assert chosen(TrainConfig(alignment=(DaRecConfig(weight=0.5),))) == {
        "alignment": [{"name": "darec", "weight": 0.5}]
    }


def test_settings_agree_unless_a_common_field_differs():
    assert agrees({"a": 1, "b": {"c": [1]}}, {"b": {"c": [1], "new": 2}})
    assert not agrees({"a": 1}, {"a": 2})
    assert not agrees({"a": [1]}, {"a": [1, 2]})


def test_only_the_selected_data_sets_have_to_be_there(tmp_path):
    path, absent = write_recipe(tmp_path), ["absent=nowhere"]
    _, runs = open_grid(path, absent, None, ["board"], "0")
    assert {run.data.name for run in runs} == {"board"}
    with pytest.raises(UserError, match="data set 'absent' does not exist"):
        open_grid(path, absent, None, None, "0")


def test_a_folder_without_interactions_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data/README.md says .*--data board=FOLDER; or .*--only NAME,NAME"):
        from_folder("board", tmp_path)


@pytest.mark.parametrize("without_text", ["refuse", "leave out"])
def test_a_recipe_without_text_vectors_is_refused_only_where_they_are_needed(tmp_path, monkeypatch, without_text):
    monkeypatch.chdir(tmp_path)
    write_checkerboard(tmp_path)
    Path("own.yaml").write_text(json.dumps({"data": CHECKERBOARD}))
    path, data, settings = write_recipe(tmp_path), ["own=own.yaml"], [f"without_text={without_text}"]
    message = r"vectors of 'own' do not exist yet.*--recipe own.yaml --until embed` first; or .*--only NAME,NAME"
    with pytest.raises(UserError, match=message):
        open_grid(path, data, settings, None, "0")

    for only in (["board"], ["own,board", "none"]):
        _, runs = open_grid(path, data, settings, only, "0")
        assert {run.data.name for run in runs} == {"own", "board"} & set(only[0].split(","))


def test_a_name_that_cannot_be_part_of_a_file_name_is_refused():
    assert sources({}, ["my data=folder"]) == {"my data": Path("folder")}
    for given in ("mi/ne=folder", "../mine=folder", "=folder"):
        with pytest.raises(UserError, match=r"cannot be the name of a data set"):
            sources({}, [given])


def test_a_table_against_no_alignment_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no alignment is named nonsense \[--against\] -> use one of none, darec"):
        bench_table.table(write_recipe(tmp_path), None, None, ["board"], "0", tmp_path, tmp_path, against="nonsense")
