"""The choice of training settings: halving, what is kept between runs, and what the training stages make of it."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from darec.artifacts import files
from darec.common.errors import UserError
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.recipes import load_recipe
from darec.model.propagation import Adjacency
from darec.training import search, train
from darec.training.trainer import DivergedError
from schemas import columns as c
from schemas.alignment import (
    AlignmentConfig,
    DaRecConfig,
    KARConfig,
    LinearTeacherConfig,
    RLMRecConConfig,
    RLMRecGenConfig,
)
from schemas.backbones import EASEConfig, L3AEConfig, LightGCNConfig
from schemas.recipe import Recipe
from schemas.reports import ChoiceReport
from schemas.search import SearchConfig
from schemas.training import FuseConfig, TrainConfig
from stages import choose, refit
from stages import train as training_stage
from stages.contract import StageContext
from stages.registry import needed
from stages.walk import run as run_stages
from tests.checkerboard import checkerboard, parity_text
from tests.data import write_tastes
from tests.integration.test_gate_nights import TRAIN
from tests.unit.test_fusing import run_stage

QUICK = {"dim": 8, "eval_every": 1, "batch_size": 256, "device": "cpu", "cold_start": "none", "patience": 100}
PLAIN = TrainConfig(alignment=(), epochs=8, learning_rate=0.02, **QUICK)


@pytest.fixture
def data(tmp_path: Path) -> Interactions:
    return checkerboard(tmp_path)


def test_without_names_the_weights_of_all_objectives_are_scaled() -> None:
    settings = PLAIN.model_copy(update={"alignment": (DaRecConfig(weight=0.8), KARConfig())})
    found = search.candidates(SearchConfig(), settings)
    assert found.pop(search.WITHOUT_TEXT).alignment == (), "KAR has no weight"
    assert list(found) == ["weights x 1", "weights x 0.25", "weights x 0.0625", "weights x 0"]
    assert [vars(each.alignment[0])["weight"] for each in found.values()] == [0.8, 0.2, 0.05, 0.0]
    assert all(each.alignment[1] == KARConfig() for each in found.values())
    assert found["weights x 1"] == settings


@pytest.mark.parametrize("objective", [DaRecConfig(weight=0), RLMRecGenConfig(weight=0)])
def test_an_objective_of_weight_zero_gives_the_model_without_it(data: Interactions, objective: AlignmentConfig) -> None:
    settings = PLAIN.model_copy(update={"epochs": 2, "backbone": LightGCNConfig(edge_keep=0.8)})
    without = train(settings, data).final.nodes
    with_zero = train(settings.model_copy(update={"alignment": (objective,)}), data, parity_text(data)).final.nodes
    assert torch.equal(with_zero, without)


def test_a_student_is_also_compared_with_itself_without_text() -> None:
    teacher, beside = LinearTeacherConfig(model=L3AEConfig()), DaRecConfig(weight=0.8)
    settings = PLAIN.model_copy(update={"alignment": (teacher, beside), "ranking_weight": 0.0})
    found = search.candidates(SearchConfig(), settings)
    assert list(found) == ["weights x 1", "weights x 0.25", "weights x 0.0625", "weights x 0", search.WITHOUT_TEXT]
    assert all(each.alignment[0] == teacher for name, each in found.items() if name != search.WITHOUT_TEXT)
    assert found[search.WITHOUT_TEXT] == settings.without_text(), "the reference of the evaluation"

    alone = settings.model_copy(update={"alignment": (teacher,), "fuse": FuseConfig()})
    assert list(search.candidates(SearchConfig(), alone)) == ["weights x 1", search.WITHOUT_TEXT]
    taught = alone.model_copy(update={"alignment": (LinearTeacherConfig(model=EASEConfig()),), "fuse": None})
    assert list(search.candidates(SearchConfig(), taught)) == ["weights x 1"], "nothing to choose"
    only = PLAIN.model_copy(update={"alignment": (beside,), "ranking_weight": 0.0})
    assert "weights x 0" not in search.candidates(SearchConfig(), only), "no loss would be left"
    with pytest.raises(UserError, match="no loss"):
        search.candidates(SearchConfig(candidates={"none": {"alignment": []}}), only)


def test_items_without_interactions_need_a_candidate_that_predicts_their_vectors() -> None:
    fused = PLAIN.model_copy(update={"fuse": FuseConfig(), "cold_start": "neighbours"})
    assert search.WITHOUT_TEXT in search.candidates(SearchConfig(), fused)
    assert list(search.candidates(SearchConfig(), fused, all_items=True)) == ["weights x 1"]

    config = SearchConfig(candidates={"fused": {}, "untrained": {"cold_start": "none"}})
    assert list(search.candidates(config, fused)) == ["fused", "untrained"]
    with pytest.raises(UserError, match="predicts no vectors of items without interactions") as error:
        search.candidates(config, fused, all_items=True)
    assert error.value.where == "search.candidates.untrained"


def test_text_that_says_nothing_is_not_chosen(data: Interactions, tmp_path: Path) -> None:
    torch.manual_seed(0)
    noise = Representations(torch.randn(data.n_nodes, 12), data.n_users)
    teacher = LinearTeacherConfig(model=L3AEConfig(prior=200.0, l2=5.0, text_l2=0.5))  # trusts the texts far too much
    settings = PLAIN.model_copy(update={"alignment": (teacher,), "ranking_weight": 0.0, "epochs": 4})
    among = search.candidates(SearchConfig(), settings)
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    for text, right in ((noise, search.WITHOUT_TEXT), (parity_text(data), "weights x 1")):
        folder = tmp_path / right
        folder.mkdir()
        assert search.choose(among, data, text, graph, SearchConfig(), folder)[0] == right


def test_a_candidate_that_diverges_is_the_worst(data: Interactions, tmp_path: Path) -> None:
    wild = PLAIN.model_copy(update={"learning_rate": 1e30})
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    name, rounds = search.choose({"wild": wild, "good": PLAIN}, data, None, graph, SearchConfig(epochs=1), tmp_path)
    assert (name, rounds[0].recalls["wild"]) == ("good", -1)
    assert "wild diverged" in ChoiceReport(name=name, why="new", rounds=tuple(map(asdict, rounds))).remarks[0]
    with pytest.raises(DivergedError):
        search.choose({"wild": wild, "same": wild}, data, None, graph, SearchConfig(epochs=1), tmp_path)


def test_if_the_better_half_diverges_later_the_best_of_the_others_is_chosen(
    data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls = {0.4: 0.9, 0.3: 0.8, 0.2: 0.5, 0.1: 0.6}

    def trained(settings: TrainConfig, *_: object, last_epoch: int, **__: object) -> SimpleNamespace:
        if last_epoch > 1 and settings.learning_rate > 0.2:
            raise DivergedError("training diverged")
        return SimpleNamespace(validation={"recall@20": recalls[settings.learning_rate]})

    monkeypatch.setattr(search, "train", trained)
    among = {str(rate): PLAIN.model_copy(update={"learning_rate": rate}) for rate in recalls}
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    name, rounds = search.choose(among, data, None, graph, SearchConfig(epochs=1), tmp_path)
    assert (name, len(rounds)) == ("0.1", 2)


def test_auto_is_the_default_weight_with_a_search() -> None:
    objective = {"name": "rlmrec-con", "weight": "auto", "rows": 7}
    recipe = Recipe.model_validate({"train": {"alignment": [objective, {"name": "kar"}]}})
    assert recipe.search == SearchConfig()
    assert recipe.train.alignment == (RLMRecConConfig(rows=7), KARConfig())
    own = SearchConfig(candidates={"mf": {"backbone": {"name": "mf"}}})
    assert Recipe.model_validate({"train": {"alignment": [objective]}, "search": own}).search == own
    read = load_recipe(None, ["train.alignment.0.weight=auto"])
    assert (read.search, read.train) == (SearchConfig(), Recipe().train)
    with pytest.raises(UserError, match=r"train\.alignment\.0\.weight.*automatic"):
        load_recipe(None, ["train.alignment.0.weight=automatic"])


def test_named_candidates_are_overrides_of_the_settings() -> None:
    config = SearchConfig(candidates={"as it is": {}, "mf": {"backbone": {"name": "mf"}, "learning_rate": 0.1}})
    found = search.candidates(config, PLAIN)
    assert found["as it is"] == PLAIN
    assert (found["mf"].backbone.name, found["mf"].learning_rate, found["mf"].dim) == ("mf", 0.1, 8)
    with pytest.raises(UserError, match=r"learning_rat"):
        search.candidates(SearchConfig(candidates={"typo": {"learning_rat": 1}}), PLAIN)
    with pytest.raises(UserError, match="needs text vectors"):
        search.candidates(SearchConfig(candidates={"text": {"alignment": [{"name": "darec"}]}}), PLAIN)
    avoid = SearchConfig(candidates={"plain": {}, "avoid": {"dislikes": "avoid"}})
    with pytest.raises(UserError, match="uses dislikes and `train` does not"):
        search.candidates(avoid, PLAIN)
    assert len(search.candidates(avoid, PLAIN.model_copy(update={"dislikes": "prefer"}))) == 2


def test_the_better_half_trains_on_to_what_training_at_once_would_give(data: Interactions, tmp_path: Path) -> None:
    rates = {"none": 1e-6, "slow": 2e-3, "good": 0.03, "wild": 3.0}
    among = {name: PLAIN.model_copy(update={"learning_rate": rate}) for name, rate in rates.items()}
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    name, rounds = search.choose(among, data, None, graph, SearchConfig(epochs=2), tmp_path)
    assert [each.epochs for each in rounds] == [2, 4]
    assert [len(each.recalls) for each in rounds] == [4, 2]
    assert set(rounds[1].recalls) == set(sorted(rates, key=lambda each: -rounds[0].recalls[each])[:2])
    assert rounds[1].recalls[name] == max(rounds[1].recalls.values())
    alone = train(among[name], data, adjacency=graph, last_epoch=4)
    assert rounds[1].recalls[name] == alone.validation["recall@20"]


def test_time_and_epochs_end_a_search(data: Interactions, tmp_path: Path) -> None:
    among = {str(seed): PLAIN.model_copy(update={"seed": seed, "epochs": 3}) for seed in range(5)}
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    name, rounds = search.choose(among, data, None, graph, SearchConfig(epochs=1, minutes=1e-9), tmp_path)
    assert name == "0" and [list(each.recalls) for each in rounds] == [["0"]], "later candidates are not begun"
    _, rounds = search.choose(among, data, None, graph, SearchConfig(epochs=4), tmp_path)
    assert len(rounds) == 1, "nobody has more epochs to train"


def test_a_recipe_without_a_search_has_no_such_stage() -> None:
    assert "choose" not in [task.name for task in needed(Recipe())]
    stages = [task.name for task in needed(Recipe(search=SearchConfig()))]
    assert stages.index("embed") < stages.index("choose") < stages.index("train")


def test_training_and_refit_take_the_chosen_settings(data: Interactions, tmp_path: Path) -> None:
    candidates = {"wide": {"dim": 12}, "narrow": {"dim": 3}}
    settings = PLAIN.model_copy(update={"epochs": 1, "refit": "all"})
    recipe = Recipe(train=settings, search=SearchConfig(candidates=candidates))
    choice = tmp_path / "choice.json"
    files.CHOICE.format.write({"name": "narrow"}, choice)
    given = {files.CHOICE: choice}
    judged = run_stage(training_stage.run, recipe, data, tmp_path / "train", given)
    assert judged.report.choice == "narrow"
    history = {files.HISTORY: tmp_path / "train" / files.HISTORY.name}
    run_stage(refit.run, recipe, data, tmp_path / "refit", given | history)
    for folder, file in (("train", files.EMBEDDINGS), ("refit", files.REFIT_EMBEDDINGS)):
        assert file.format.read(tmp_path / folder / file.name).item.shape[1] == 3


def test_a_choice_is_kept_until_the_data_has_grown_or_the_question_is_another(tmp_path: Path) -> None:
    write_tastes(tmp_path)

    def night(growth: float, force=(), **changes):
        source: dict[str, object] = {"source": "csv", "interactions": str(tmp_path / "interactions.csv")}
        source["interaction_columns"] = {"timestamp": "timestamp"}
        few = {"epochs": 2, "eval_every": 1, "warm_start": True}
        config = {"candidates": {"slow": {"learning_rate": 1e-6}, "good": {}}, "epochs": 1, "growth": growth}
        values = {"data": source, "train": TRAIN | few | changes, "search": config}
        values |= {"runtime": {"store": str(tmp_path / "store"), "min_free_gb": 0}}
        return {
            result.stage: result for result in run_stages(Recipe.model_validate(values), until="train", force=force)
        }

    first = night(0.5)
    assert first["choose"].report.name == first["train"].report.choice == "good"
    assert not first["choose"].report.kept
    assert [sorted(each["recalls"]) for each in first["choose"].report.rounds] == [["good", "slow"]]

    log = tmp_path / "interactions.csv"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:-50]) + "\n")
    second = night(0.5)
    assert second["choose"].report.kept and not second["choose"].cached
    assert second["train"].report.choice == "good"
    assert not night(0.5, force=["choose"])["choose"].report.kept, "force means a new search"
    assert not night(0.5, dim=9)["choose"].report.kept, "other settings are another question"
    assert night(0.6)["choose"].report.kept, "a limit of growth is not"

    log.write_text("\n".join(lines[:-70]) + "\n")
    other_recipe_in_between = night(0.5)
    assert other_recipe_in_between["choose"].report.kept
    assert other_recipe_in_between["choose"].report.remarks[0].startswith("chosen: good (kept from an earlier run)")

    others = [lines[0], *(f"new-{line}" for line in lines[1:-70])]
    log.write_text("\n".join(others) + "\n")
    experiment = night(0.5)["choose"].report
    assert not experiment.kept
    assert "100% of the train interactions of the last search are missing" in experiment.remarks[0]

    log.write_text("\n".join(lines[:-60]) + "\n")
    assert night(0.5)["choose"].report.kept, "other data in between has a choice of its own"
    log.write_text("\n".join(others[:-10]) + "\n")
    assert night(0.5)["choose"].report.kept


def test_a_choice_names_the_epochs_that_its_candidates_had() -> None:
    rounds = (
        {"epochs": 1, "recalls": {"a": 0.3, "weights x 0.5": 0.2, "c": 0.1, "d": -1.0}},
        {"epochs": 2, "recalls": {"a": 0.35, "weights x 0.5": 0.4}},
    )
    assert ChoiceReport(name="weights x 0.5", why="new", rounds=rounds).remarks == (
        "chosen: weights x 0.5 (new); validation Recall@20: after 2 epochs weights x 0.5 = 0.4000, a = 0.3500; "
        "after 1 epoch c = 0.1000, d diverged",
    )


def test_one_candidate_is_not_trained(data: Interactions, tmp_path: Path) -> None:
    graph = Adjacency.normalised(data.train, data.n_users, data.n_items)
    assert search.choose({"alone": PLAIN}, data, None, graph, SearchConfig(), tmp_path) == ("alone", [])
    assert not list(tmp_path.glob("*.safetensors"))
    assert ChoiceReport(name="alone", why="new").remarks == ("alone is the only candidate",)


def test_a_sketch_estimates_which_interactions_are_still_there(tmp_path: Path) -> None:
    users, items = 300, 200
    names = {files.USER_VOCABULARY: (c.USER, users), files.ITEM_VOCABULARY: (c.ITEM, items)}
    paths = {file: tmp_path / file.name for file in names}
    for file, (column, size) in names.items():
        pl.DataFrame({column: [f"{column}{number}" for number in range(size)]}).write_parquet(paths[file])
    inputs = {(file.stage, file.name): path for file, path in paths.items()}
    context = StageContext(Recipe(), inputs, tmp_path, tmp_path, tmp_path)

    def sketch(first: int, last: int) -> list[int]:
        pairs = torch.arange(first, last)
        return choose._sketch(context, Pairs(pairs // items, pairs % items))

    whole = sketch(0, 20_000)
    assert choose._kept_share(whole, sketch(0, 20_000)) == 1
    assert choose._kept_share(whole, sketch(0, 60_000)) == 1, "a log that grows keeps all of them"
    assert choose._kept_share(whole, sketch(5_000, 25_000)) == pytest.approx(0.75, abs=0.08)
    assert choose._kept_share(whole, sketch(20_000, 40_000)) == 0
    assert choose._kept_share(sketch(0, 100), sketch(50, 150)) == 0.5, "few pairs are compared exactly"
    assert choose._kept_share([], whole) == 1


def test_other_texts_are_another_question() -> None:
    recipe = Recipe()
    other = Recipe.model_validate({"llm": {"temperature": 0.9}})
    batch = Recipe.model_validate({"llm": {"workers": 7}})
    assert choose._texts(recipe) == choose._texts(batch) != choose._texts(other)
    asked = {"texts": "b", "interactions": 100, "sketch": [1, 2]}
    assert choose._changed({**asked, "texts": "a"}, asked, 0.3) == "the prompts or the models of the texts have changed"
    assert not choose._changed({"interactions": 90}, asked, 0.3), "a choice of version 0.1"
    assert choose._changed({"interactions": 60}, asked, 0.3) == "100 train interactions instead of 60"
