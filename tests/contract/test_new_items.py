"""Items that nobody has interacted with yet, from the items file to the lists."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from darec.artifacts.store import Store
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from schemas.recipe import Recipe
from schemas.rules import RulesConfig
from tests.data import write_checkerboard
from tests.report_samples import recipe, run

TRAIN = {"epochs": 40, "eval_every": 5, "dim": 8, "learning_rate": 0.02, "cold_start": "neighbours", "refit": "all"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkerboard, of whose 28 items the last four are new."""
    write_checkerboard(tmp_path, items=28)
    log = pl.read_csv(tmp_path / "interactions.csv")
    log.filter(pl.col("item_id") < "i024").write_csv(tmp_path / "interactions.csv")
    return tmp_path


def test_new_items_are_in_the_release_and_recommended_to_those_whom_their_texts_suit(folder: Path) -> None:
    chosen = recipe(folder, train=TRAIN, split={"items": "all"})
    run(chosen)
    bundle = Bundle.open(Releases(Path(chosen.runtime.store)).serving())
    assert bundle.items.height == 28
    assert bundle.items.filter(pl.col("train_count") == 0)["item_id"].to_list() == ["i024", "i025", "i026", "i027"]

    for user, suitable in (("u000", {"i024", "i026"}), ("u001", {"i025", "i027"})):
        found = recommend(bundle, user, 4, rules=RulesConfig(only_new=True))
        assert set(found["item_id"][:2]) == suitable and found["score"].is_sorted(descending=True)


def test_a_search_chooses_among_models_that_predict_the_vectors_of_new_items(folder: Path) -> None:
    """The model without text, which it would also compare, predicts none."""
    fused = TRAIN | {"epochs": 2, "alignment": [], "fuse": {}}
    candidates = {}
    for items in ("core", "all"):
        chosen = recipe(folder, train=fused, search={"epochs": 1}, split={"items": items})
        made = Store(chosen.runtime.store).artifact("choose", run(chosen, until="choose")["choose"])
        candidates[items] = made.manifest.rows
    assert candidates == {"core": 2, "all": 1}


def test_an_edited_title_makes_no_stage_stale_that_reads_no_titles(folder: Path) -> None:
    chosen = recipe(folder, train=TRAIN, split={"items": "all"})
    before = run(chosen, until="graph")
    items = pl.read_csv(folder / "items.csv")
    items.with_columns(title=pl.col("title") + " again").write_csv(folder / "items.csv")
    after = run(chosen, until="graph")
    assert after["split"] != before["split"] and after["graph"] == before["graph"]


def test_all_items_need_vectors_from_texts() -> None:
    with pytest.raises(ValidationError, match=r"split\.items: all .* train predicts none"):
        Recipe.model_validate({"split": {"items": "all"}, "train": {"cold_start": "none"}})
