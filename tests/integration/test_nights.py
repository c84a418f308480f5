"""Nights on growing data: what is cut, what is profiled again, and how often a user's prompt changes."""

from itertools import islice, pairwise
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import polars as pl
import pytest

from benchmarks import nightly_simulation as nights
from benchmarks.nights import History, finished, plot, table
from darec.common.recipes import load_recipe
from darec.dataset.sources import movielens_files
from darec.text.histories import choose_pairs
from schemas import columns as c
from schemas.recipe import Recipe
from stages import registry
from stages.walk import run
from tests import report_samples
from tests.data import write_checkerboard

MOVIELENS = Path("data/raw/ml-100k")


def movielens_like(folder: Path) -> Path:
    """The checkerboard in RecBole's layout of MovieLens-100K."""
    write_checkerboard(folder)
    marks = {"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float"}
    interactions = pl.read_csv(folder / "interactions.csv").rename(marks | {"timestamp": "timestamp:float"})
    items = pl.read_csv(folder / "items.csv").select(
        pl.col("item_id").alias("item_id:token"),
        pl.col("title").alias("movie_title:token_seq"),
        pl.col("year").alias("release_year:token"),
        pl.col("genres").alias("class:token_seq"),
    )
    users = pl.read_csv(folder / "users.csv").select(
        pl.col("user_id").alias("user_id:token"),
        pl.col("age").alias("age:token"),
        pl.col("gender").alias("gender:token"),
        pl.lit("artist").alias("occupation:token"),
    )
    for name, rows in {"inter": interactions.drop("split"), "item": items, "user": users}.items():
        rows.write_csv(folder / f"ml-100k.{name}", separator="\t")
    return folder


def test_each_night_knows_the_first_interactions_and_the_last_one_all(tmp_path: Path) -> None:
    history = History(movielens_files(movielens_like(tmp_path)))
    counts = history.counts(3, 0.1)
    assert counts == sorted(counts) and counts[-1] == 480
    assert all(round(before * 1.1) in (after - 1, after, after + 1) for before, after in pairwise(counts))
    seen = [
        pl.read_csv(movielens_files(history.until(n, tmp_path / str(n)))["interactions"], separator="\t")
        for n in counts
    ]
    assert [rows.height for rows in seen] == counts
    assert seen[-1]["timestamp:float"].is_sorted()
    assert all(later.head(rows.height).equals(rows) for rows, later in pairwise(seen))


def test_nights_are_run_once_each_and_compared_with_training_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, stage in report_samples.FAKES.items():
        monkeypatch.setitem(registry.TASKS, name, stage)
    recipe = Recipe.model_validate(
        {
            "data": {"folder": movielens_like(tmp_path / "raw")},
            "split": {"k_core": 1},
            "train": {"epochs": 4, "eval_every": 2, "dim": 8},
            "gate": {"minimums": {}, "tolerances": {"recall@20": 1.0}},
            "runtime": {"min_free_gb": 0},
        }
    )
    out = tmp_path / "out"
    first = list(islice(nights.simulate(recipe, movielens_files, out, 3, 0.1, scratch_every=2), 2))
    assert [night.number for night in first] == [0, 1]
    done = list(nights.simulate(recipe, movielens_files, out, 3, 0.1, scratch_every=2))
    assert [night.number for night in done] == [0, 1, 2, 3] and finished(out / nights.LOG) == done
    assert all(night.published for night in done)
    assert [night.scratch_recall is not None for night in done] == [False, False, True, False]
    assert done[-1].interactions == 480 and done[-1].users == 40
    assert table(done).count("\n") >= 5
    picture = ElementTree.parse(plot(done, out / "nights.svg")).getroot()
    shown = [element.text for element in picture.iterfind("*/{*}title")]
    later = done[1:]
    assert {f"users: {night.new_users}" for night in later} <= set(shown)
    assert {f"items: {night.new_items}" for night in later} <= set(shown)
    assert f"warm start: {done[-1].recall:.4g}" in shown and f"from scratch: {done[2].scratch_recall:.4g}" in shown


@pytest.mark.skipif(not MOVIELENS.is_dir(), reason="MovieLens-100K is not fetched: darec data fetch ml-100k")
def test_one_percent_more_interactions_anywhere_change_a_tenth_of_the_users_prompts_at_most(tmp_path: Path) -> None:
    """The hard night: the new interactions are spread over all users, and not, as by time, mostly of new ones."""
    first, *rows = interaction_lines(MOVIELENS)  # the header, where the layout has one
    before = Random(0).sample(rows, round(len(rows) / 1.01))
    shown = []
    for name, part in (("before", before), ("after", rows)):
        folder = History(movielens_files(MOVIELENS)).until(0, tmp_path / name)
        movielens_files(folder)["interactions"].write_text("".join([first, *part]), encoding="latin-1")
        recipe = load_recipe(None, [f"data.folder={folder}", f"runtime.store={tmp_path / 'store'}"])
        shown.append(shown_items(run(recipe, "split")[-1].artifact.path, recipe))
    old, new = shown
    changed = sum(items != old.get(user) for user, items in new.items())
    share = changed / len(new)
    print(f"{changed} of {len(new)} users' prompts ({share:.1%}) after {len(rows) - len(before)} new interactions")
    assert 0 < changed <= 0.1 * len(new)


def interaction_lines(folder: Path) -> list[str]:
    return movielens_files(folder)["interactions"].read_text(encoding="latin-1").splitlines(keepends=True)


def shown_items(split: Path, recipe: Recipe) -> dict[str, frozenset[str]]:
    """The items that each user's prompt shows."""
    train, users, items = (pl.read_parquet(split / f"{name}.parquet") for name in ("train", "users", "items"))
    chosen = choose_pairs(train, users, items, recipe.profile_users.items, recipe.profile_users.seed)
    chosen = chosen.join(users, on=c.USER_INDEX).join(items, on=c.ITEM_INDEX)
    return {user: frozenset(part[c.ITEM]) for (user,), part in chosen.group_by(c.USER)}
