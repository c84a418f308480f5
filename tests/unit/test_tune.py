"""Hyper-parameter search: it goes on after a kill, prunes, and finds what is better."""

from dataclasses import replace

import optuna
import pytest
import torch

from benchmarks.data import BenchData, from_folder
from benchmarks.tune import Search, SearchContext, finished, given, searches
from darec.common.errors import UserError
from darec.common.interactions import Pairs
from darec.common.progress import Silent
from schemas.bench import TuneRecipe
from schemas.recipe import Recipe
from tests.bench_samples import write_board


@pytest.fixture
def board(tmp_path) -> BenchData:
    return from_folder("board", write_board(tmp_path / "board"))


def recipe(train=None, **values) -> TuneRecipe:
    base = {"dim": 8, "epochs": 20, "eval_every": 5, "alignment": [], "device": "cpu", "batch_size": 256}
    base["backbone"] = {"name": "mf"}
    space = {"train.learning_rate": {"kind": "float", "low": 1e-5, "high": 0.1, "log": True}}
    defaults = {"name": "t", "data": {"board": "x"}, "base": {"train": base | (train or {})}, "space": space}
    return TuneRecipe.model_validate(defaults | {"trials": 2, "startup_trials": 1} | values)


def search(recipe: TuneRecipe, ground: BenchData | SearchContext, folder, progress=None) -> Search:
    ground = given(ground) if isinstance(ground, BenchData) else ground
    (only,) = searches(recipe, ground, folder, progress)
    return only


def test_a_search_is_prolonged_not_repeated(board, tmp_path):
    first = [trial.params for trial in search(recipe(), board, tmp_path / "study").run().trials]
    study = search(recipe(trials=4), board, tmp_path / "study").run()
    assert len(finished(study)) == 4
    assert [trial.params for trial in study.trials[:2]] == first
    rates = [trial.params["train.learning_rate"] for trial in study.trials]
    assert len(set(rates)) == 4


def test_a_killed_trial_is_done_again_first(board, tmp_path):
    killed = search(recipe(), board, tmp_path / "study")
    killed.folder.mkdir(parents=True)
    study = killed._open()
    trial = study.ask()
    trial.suggest_float("train.learning_rate", 1e-5, 0.1, log=True)
    again = search(recipe(trials=1), board, tmp_path / "study").run()
    states = [trial.state for trial in again.trials]
    assert states == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE]
    assert again.trials[1].params == again.trials[0].params


def test_a_line_of_the_journal_that_a_full_disk_cut_short_costs_no_earlier_trial(board, tmp_path):
    first = search(recipe(), board, tmp_path / "study").run().trials
    (journal,) = (tmp_path / "study").rglob("*.journal")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "x", "trial_')
    for trials in (3, 4):
        study = search(recipe(trials=trials), board, tmp_path / "study").run()
        assert (len(finished(study)), study.trials[:2]) == (trials, first)


def test_a_damaged_journal_is_named(board, tmp_path):
    search(recipe(trials=1), board, tmp_path / "study").run()
    (journal,) = (tmp_path / "study").rglob("*.journal")
    journal.write_bytes(b"nonsense\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"the journal of the search is damaged .*\.journal\] -> restore it"):
        search(recipe(trials=2), board, tmp_path / "study").run()


class InterruptedAt(Silent):
    """Ctrl-C after `last` epochs; if 0, only counts the epochs."""

    def __init__(self, last: int = 0) -> None:
        self.last, self.steps = last, list[int]()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.steps.append(count)
        if self.last and sum(self.steps) >= self.last:
            raise KeyboardInterrupt


def test_an_interrupted_trial_goes_on_first(board, tmp_path):
    chosen = recipe({"checkpoint_every": 1}, trials=2)
    for last in (7, 9):  # interrupted again when it is done again
        with pytest.raises(KeyboardInterrupt):
            search(chosen, board, tmp_path / "study", InterruptedAt(last)).run()
    counted = InterruptedAt()
    study = search(chosen, board, tmp_path / "study", counted).run()
    fail, complete = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE
    assert [trial.state for trial in study.trials[:3]] == [fail, fail, complete]
    assert study.trials[0].params == study.trials[1].params == study.trials[2].params != study.trials[3].params
    assert counted.steps[0] == 8, "it continues from its checkpoint: an interrupted epoch is not in it"
    assert search(chosen, board, tmp_path / "study").run().trials == study.trials


def test_a_trial_that_is_the_users_fault_is_not_done_again(board, tmp_path):
    space = {"train.dim": {"kind": "choice", "values": [64]}}  # wider than the text
    bad = recipe({"text": {"use": "start"}}, space=space)
    for _ in range(2):
        with pytest.raises(UserError, match="width"):
            search(bad, board, tmp_path / "study").run()
    trials = search(bad, board, tmp_path / "study")._open().trials
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.FAIL] * 2
    assert all("again" not in trial.user_attrs for trial in trials)


def test_another_default_is_another_study(board, tmp_path):
    keys = set()
    for changed in ({}, {"train": {"l2": 0.5}}, {"graph": {"weighting": "none"}}):
        ground = SearchContext(Recipe.model_validate(changed), ("graph", "train"), lambda recipe: board)
        keys.add(search(recipe(), ground, tmp_path).key)
    assert len(keys) == 3


def test_a_bad_trial_is_pruned(board, tmp_path):
    hunt = search(recipe(trials=2, prune_after=0), board, tmp_path / "study")
    hunt.folder.mkdir(parents=True)
    for rate in (0.05, 1e-5):
        hunt._open().enqueue_trial({"train.learning_rate": rate})
    good, bad = hunt.run().trials
    assert (good.state, bad.state) == (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    assert len(bad.intermediate_values) < len(good.intermediate_values) == 4


def test_another_space_is_another_study(board, tmp_path):
    other = recipe(space={"train.l2": {"kind": "float", "low": 0, "high": 1}})
    assert search(recipe(), board, tmp_path).key != search(other, board, tmp_path).key
    assert search(recipe(), board, tmp_path).key == search(recipe(trials=99), board, tmp_path).key


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train.learning_rte", "did you mean 'learning_rate'"),
        ("trian.learning_rate", "did you mean 'train'"),
        ("train.alignment.0.weight", "'train.alignment' is a list of 0: it has no entry '0'"),
        ("embed.max_tokens", "cannot change 'embed.max_tokens'.*fields of train"),
    ],
)
def test_a_field_that_cannot_be_searched_is_named_before_any_trial(board, tmp_path, path, message):
    methods = {"good": {}, "bad": {"space": {path: {"kind": "float", "low": 0, "high": 1}}}}
    with pytest.raises(UserError, match=message):
        searches(recipe(methods=methods), given(board), tmp_path)
    assert not list(tmp_path.glob("t-*"))


def test_each_method_adds_to_what_all_have(board, tmp_path):
    weight = {"train.alignment.0.weight": {"kind": "choice", "values": [0.25]}}
    methods = {"none": {}, "con": {"base": {"train.alignment": [{"name": "rlmrec-con"}]}, "space": weight}}
    none, con = searches(recipe(methods=methods, trials=1), given(board), tmp_path)
    assert (none.recipe.name, con.recipe.name, none.folder) == ("t-none", "t-con", tmp_path / "t-none")
    assert none.key != con.key
    assert none.configured({}).train.alignment == () and none.configured({}).train.dim == 8
    (trial,) = con.run().trials
    assert set(trial.params) == {"train.learning_rate", *weight}
    (objective,) = con.configured(trial.params).train.alignment
    assert (objective.name, objective.weight) == ("rlmrec-con", 0.25)


def test_only_some_methods_are_searched(board, tmp_path):
    chosen = recipe(methods={"a": {}, "b": {}, "c": {}})
    assert [each.recipe.name for each in searches(chosen, given(board), tmp_path, only=("c", "a"))] == ["t-a", "t-c"]
    with pytest.raises(UserError, match=r"method 'd' is not in the recipe \[t\] -> known: a, b, c"):
        searches(chosen, given(board), tmp_path, only=("a", "d"))


def test_a_trial_that_diverged_is_no_best_and_ends_no_search(board, tmp_path):
    """The rates' order is that of the sampler: whichever it is, the one that stays finite wins."""
    rates = {"train.learning_rate": {"kind": "choice", "values": [1e30, 0.01]}}
    study = search(recipe(space=rates, trials=6), board, tmp_path / "study").run()
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    diverged = [trial for trial in pruned if "diverged" in trial.user_attrs.get("error", "")]
    assert diverged and all(trial.params["train.learning_rate"] == 1e30 for trial in diverged)
    assert study.best_params == {"train.learning_rate": 0.01}


def test_data_without_validation_pairs_cannot_be_searched(board, tmp_path):
    nothing = Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    without = replace(board, interactions=replace(board.interactions, val=nothing))
    with pytest.raises(UserError, match="no validation pairs"):
        search(recipe(), without, tmp_path / "study").run()
