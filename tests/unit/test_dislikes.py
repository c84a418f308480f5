"""Dislikes: which of them training may know, how negatives are drawn, and that no list holds them."""

from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darec.artifacts import files
from darec.artifacts.store import Store
from darec.common.interactions import Interactions, Pairs
from darec.dataset.dislikes import known_in_train, numbered
from darec.dataset.split import split_interactions
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend_histories, recommend_many
from darec.text.entities import users_as_data
from darec.text.histories import choose_pairs
from darec.text.identity import names_variable
from darec.training.sampling import Sampler
from schemas.data import SplitConfig
from schemas.recipe import Recipe
from schemas.rules import RulesConfig
from schemas.tables import DISLIKED_PAIRS, INTERACTIONS
from schemas.training import TrainConfig
from stages.declarations import PROFILE_USERS
from stages.prompts import run_trial
from stages.walk import run
from tests.llm_stub import stub, well
from tests.prompt_bench import template


def pairs(rows) -> Pairs:
    table = torch.tensor(list(rows) or [(0, 0)])[: len(list(rows))]
    return Pairs(table[:, 0].contiguous(), table[:, 1].contiguous())


def log(rows) -> pl.DataFrame:
    users, items, times = zip(*rows, strict=True)
    table = {"user_id": users, "item_id": items, "rating": 5.0, "timestamp": times, "split": None}
    return pl.DataFrame(table, schema=INTERACTIONS)


LIKES = log(
    [("ann", item, day) for day, item in enumerate("abcde")] + [("bob", item, day) for day, item in enumerate("edcba")]
)
DISLIKES = pl.DataFrame(
    {"user_id": ["ann", "ann", "bob", "bob", "zoe"], "item_id": ["x", "e", "a", "b", "a"], "timestamp": [0, 1, 9, 2, 0]}
)


def test_training_knows_dislikes_that_are_older_than_what_is_held_out():
    config = SplitConfig(k_core=0, ratios=(0.6, 0.2, 0.2))  # each user's days 0 to 2 are train, 3 val, 4 test
    split = split_interactions(LIKES, config)
    found = numbered(DISLIKES, split)
    assert found.rows() == [(0, 4, 1), (1, 0, 9), (1, 1, 2)], "x and zoe are in no vocabulary"
    assert known_in_train(found, split, config).rows() == [(0, 4), (1, 1)], "bob's dislike of a came on day 9"
    drawn = SplitConfig(k_core=0, strategy="random", ratios=(0.6, 0.2, 0.2))
    assert known_in_train(found, split_interactions(LIKES, drawn), drawn).height == 3


# User 0 likes items 0, 1 and dislikes 2, 3; user 1 likes 5; of eight items.
DATA = Interactions(2, 8, pairs([(0, 0), (0, 1), (1, 5)]), pairs([]), pairs([]), pairs([(0, 2), (0, 3)]))


def drawn(sampler: Sampler, user: int, count: int = 4000) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.bincount(sampler.negatives(torch.full((count,), user)), minlength=8) / count


def test_ignored_dislikes_are_drawn_as_any_other_item():
    assert drawn(Sampler(DATA, 8), 0).tolist() == pytest.approx([0, 0, *[1 / 6] * 6], abs=0.03)


def test_avoided_dislikes_are_never_drawn():
    sampler = Sampler(DATA, 8, "avoid")
    assert drawn(sampler, 0).tolist() == pytest.approx([0, 0, 0, 0, *[1 / 4] * 4], abs=0.03)
    assert drawn(sampler, 1).tolist() == pytest.approx([*[1 / 7] * 5, 0, *[1 / 7] * 2], abs=0.03)
    _, rows, columns = sampler.shared_negatives(torch.tensor([0]), 8)
    assert len(rows) == len(columns) == 4, "two likes and two dislikes are masked"


def test_preferred_dislikes_have_their_share_and_users_without_any_are_as_before():
    share = 0.5
    rest = (1 - share) / 6
    expected = [0, 0, *[rest + share / 2] * 2, *[rest] * 4]
    assert drawn(Sampler(DATA, 8, "prefer", share), 0).tolist() == pytest.approx(expected, abs=0.03)
    assert drawn(Sampler(DATA, 8, "prefer", 1.0), 0)[2:4].sum() == pytest.approx(1)
    without = drawn(Sampler(DATA, 8, "prefer", share), 1)
    assert without.tolist() == pytest.approx([*[1 / 7] * 5, 0, *[1 / 7] * 2], abs=0.03)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["ignore", "avoid", "prefer"]))
def test_a_negative_is_never_a_train_item_nor_an_avoided_dislike(data, mode):
    cells = [(user, item) for user in range(4) for item in range(9)]
    likes = data.draw(st.sets(st.sampled_from([cell for cell in cells if cell[1] < 4]), min_size=1))
    dislikes = data.draw(st.sets(st.sampled_from([cell for cell in cells if 4 <= cell[1] < 8])))
    interactions = Interactions(4, 9, pairs(sorted(likes)), pairs([]), pairs([]), pairs(sorted(dislikes)))
    users = torch.arange(4).repeat(50)
    found = set(zip(users.tolist(), Sampler(interactions, 8, mode, 0.5).negatives(users).tolist(), strict=True))
    assert not found & likes
    assert mode != "avoid" or not found & dislikes


@pytest.mark.parametrize(
    ("dislikes", "loss"), [("prefer", "softmax"), ("avoid", "softmax"), ("prefer", "sampled-softmax")]
)
def test_a_loss_that_samples_no_such_negatives_is_refused(dislikes, loss):
    with pytest.raises(ValidationError, match=f"dislikes {dislikes} needs the loss"):
        TrainConfig.model_validate({"dislikes": dislikes, "loss": {"name": loss}})


def test_dislikes_that_the_data_does_not_name_are_refused():
    with pytest.raises(ValidationError, match=r"train\.dislikes: avoid needs dislikes"):
        Recipe.model_validate({"train": {"dislikes": "avoid"}})


def recipe(folder: Path, **sections) -> Recipe:
    """Twelve users, ten items; each user rates the items from 1 to 5, those below 3 are dislikes."""
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"i{item}",
            "rating": (user * 7 + item * 3) % 5 + 1,
            "timestamp": 1_600_000_000 + 86_400 * day,
        }
        for user in range(12)
        for day, item in enumerate((user * 3 + step) % 10 for step in range(9))
    ]
    pl.DataFrame(rows).write_csv(folder / "log.csv")
    data = {"source": "csv", "interactions": str(folder / "log.csv"), "dislike_below": 3}
    data["interaction_columns"] = {"rating": "rating", "timestamp": "timestamp"}
    defaults = {"data": data, "split": {"k_core": 0}, "gate": {"minimums": {}, "tolerances": {}}}
    defaults |= {"train": {"alignment": [], "epochs": 3, "dim": 4}, "runtime": {"store": str(folder / "store")}}
    return Recipe.model_validate(defaults | sections)


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("dislikes", ["ignore", "avoid", "prefer"])
def test_no_list_of_a_release_holds_a_dislike_and_they_are_no_interactions(tmp_path, dislikes, refit):
    train = {"alignment": [], "epochs": 3, "dim": 4, "dislikes": dislikes, "refit": refit}
    results = {result.stage: result for result in run(recipe(tmp_path, train=train))}
    bundle = Bundle.open(results["export"].artifact.path)
    log = pl.read_csv(tmp_path / "log.csv")
    disliked = set(log.filter(pl.col("rating") < 3).select("user_id", "item_id").rows())
    liked = set(log.filter(pl.col("rating") > 3).select("user_id", "item_id").rows())
    users = bundle.user_ids().to_list()
    lists = recommend_many(bundle, users, 10)
    assert not set(lists.select("user_id", "item_id").rows()) & (disliked | liked)
    assert set(lists.select("user_id", "item_id").rows()) | disliked | liked == {
        (user, item) for user in users for item in bundle.items["item_id"]
    }
    known_too = recommend_many(bundle, users, 10, RulesConfig(seen=True))
    assert not set(known_too.select("user_id", "item_id").rows()) & disliked
    assert set(known_too.select("user_id", "item_id").rows()) >= liked
    assert bundle.report.interactions == len(liked)
    assert bundle.items["train_count"].sum() <= len(liked)
    assert recommend_histories(bundle, [["i1", "i2"]], 3).height == 3


def test_turning_dislikes_on_in_training_changes_the_model_and_its_key_alone(tmp_path):
    store = Store(tmp_path / "store")
    keys = {}
    for mode in ("ignore", "avoid", "prefer"):
        chosen = recipe(tmp_path, train={"alignment": [], "epochs": 3, "dim": 4, "dislikes": mode})
        keys[mode] = {result.stage: result.artifact.key for result in run(chosen, "train")}
    assert len({each["train"] for each in keys.values()}) == 3
    assert len({each["split"] for each in keys.values()}) == 1
    vectors = [store.artifact("train", each["train"]).hashes["embeddings.safetensors"] for each in keys.values()]
    assert len(set(vectors)) == 3


def test_the_prompt_of_a_user_shows_dislikes_only_where_it_names_them(tmp_path):
    prompt = tmp_path / "prompt.j2"
    source = Path("prompts/user_profile.j2").read_text()
    prompt.write_text(source)
    chosen = recipe(tmp_path, profile_users={"prompt": str(prompt)})
    assert files.TRAIN_DISLIKES not in PROFILE_USERS.reads(chosen)
    prompt.write_text(
        source.replace(
            "{% block user -%}", "{% block user -%}{% for item in disliked %}not {{ item.title }} {% endfor %}"
        )
    )
    assert files.TRAIN_DISLIKES in PROFILE_USERS.reads(chosen)
    assert files.TRAIN_DISLIKES not in PROFILE_USERS.reads(Recipe(profile_users=chosen.profile_users))
    assert not names_variable(tmp_path / "missing.j2", "disliked")


def test_a_prompt_that_is_tried_shows_dislikes_though_the_present_one_does_not(tmp_path):
    with stub(well) as server:
        present = template(tmp_path / "present.j2", "{% for item in items %}{{ item.title }} {% endfor %}")
        new = template(tmp_path / "new.j2", "{% for item in disliked %}not {{ item.title }} {% endfor %}")
        llm = {"engine": "server", "server_url": server.url, "model": "stub"}
        items = {"prompt": template(tmp_path / "items.j2")}
        chosen = recipe(tmp_path, llm=llm, profile_items=items, profile_users={"prompt": present})
        run(chosen, "profile_items")
        trial = run_trial(chosen, Store(chosen.runtime.store), "profile_users", new, "12")
        shown = {row.id: row.new.prompt for row in trial.rows}
        assert len(shown) == 12 and all(prompt.startswith("not i") for prompt in shown.values())

        # The run with the new prompt asks for nothing more.
        used = recipe(tmp_path, llm=llm, profile_items=items, profile_users={"prompt": new})
        report = run(used, "profile_users")[-1].report
        assert (report.rows, report.generated) == (12, 0)


def test_the_dislikes_that_a_prompt_is_given():
    vocabulary = pl.DataFrame(
        {"user_index": [0, 1], "user_id": ["ann", "bob"]}, schema={"user_index": pl.Int32, "user_id": pl.String}
    )
    users = pl.DataFrame(
        {"user_id": [], "attributes": []},
        schema={"user_id": pl.String, "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String}))},
    )
    items = pl.DataFrame(
        {
            "item_index": [0, 1, 2],
            "item_id": ["a", "b", "c"],
            "title": ["Ay", "Bee", "Cee"],
            "profile": ["p", None, "q"],
        },
        schema_overrides={"item_index": pl.Int32},
    )
    train = pl.DataFrame(
        {"user_index": [0], "item_index": [0], "rating": [5.0], "timestamp": [1]},
        schema_overrides={"user_index": pl.Int32, "item_index": pl.Int32},
    )
    dislikes = pl.DataFrame({"user_index": [0, 0], "item_index": [2, 1]}, schema=DISLIKED_PAIRS)
    shown = users_as_data(vocabulary, users, items, train, choose_pairs(dislikes, vocabulary, items, 5, 0))
    assert shown["disliked"].to_list() == [[{"title": "Bee", "profile": None}, {"title": "Cee", "profile": "q"}], []]
    assert users_as_data(vocabulary, users, items, train)["disliked"].to_list() == [[], []]
