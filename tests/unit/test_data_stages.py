"""ingest, split and graph as stages: what each writes, and what an edit of the source changes."""

from pathlib import Path

import polars as pl
import pytest

from darec.artifacts.files import EDGES
from darec.common.errors import DarecError
from darec.common.hashing import file_sha256
from schemas.recipe import Recipe
from stages.contract import Outcome, StageContext
from stages.declarations import GRAPH, INGEST, SPLIT
from tests.data import write_checkerboard


def recipe(folder: Path, **sections) -> Recipe:
    paths = {role: folder / f"{role}.csv" for role in ("interactions", "items", "users")}
    columns = {"rating": "rating", "timestamp": "timestamp", "split": "split"}
    return Recipe.model_validate({"data": {"source": "csv", **paths, "interaction_columns": columns}, **sections})


def run(stage, recipe: Recipe, root: Path) -> Outcome:
    inputs = {(file.stage, file.name): root / file.stage / file.name for file in stage.reads(recipe)}
    out = root / stage.name
    out.mkdir(parents=True)
    context = StageContext(recipe=recipe, inputs=inputs, out=out, work=root / "work", store=root / "store")
    outcome = stage.load().run(context)
    assert {path.name for path in out.iterdir()} == {file.name for file in stage.writes}
    return outcome


def run_all(recipe: Recipe, root: Path) -> dict[str, str]:
    for stage in (INGEST, SPLIT, GRAPH):
        run(stage, recipe, root)
    return {str(path.relative_to(root)): file_sha256(path) for path in root.rglob("*.parquet")}


@pytest.fixture
def source(tmp_path):
    write_checkerboard(tmp_path / "raw")
    return tmp_path / "raw"


def test_the_same_source_gives_the_same_bytes(source, tmp_path):
    assert run_all(recipe(source), tmp_path / "a") == run_all(recipe(source), tmp_path / "b")


def test_shuffled_interactions_change_no_byte(source, tmp_path):
    before = run_all(recipe(source), tmp_path / "a")
    table = pl.read_csv(source / "interactions.csv")
    table.sample(fraction=1, shuffle=True, seed=5).write_csv(source / "interactions.csv")
    assert run_all(recipe(source), tmp_path / "b") == before


def test_an_edited_title_changes_nothing_but_the_items(source, tmp_path):
    before, key = run_all(recipe(source), tmp_path / "a"), INGEST.fingerprint(recipe(source))
    edited = (source / "items.csv").read_text().replace("Merry Picnic 2,", "Merry Supper 2,")
    (source / "items.csv").write_text(edited)
    after = run_all(recipe(source), tmp_path / "b")
    assert {name for name in after if after[name] != before[name]} == {"ingest/items.parquet"}
    assert INGEST.fingerprint(recipe(source)) != key


def test_the_key_follows_content_and_not_paths(source, tmp_path):
    write_checkerboard(tmp_path / "elsewhere")
    assert INGEST.fingerprint(recipe(source)) == INGEST.fingerprint(recipe(tmp_path / "elsewhere"))


def test_a_given_split_holds_out_one_item_of_each_users_parity(source, tmp_path):
    chosen = recipe(source, split={"strategy": "column"})
    run(INGEST, chosen, tmp_path)
    report = run(SPLIT, chosen, tmp_path).report
    assert (report.train, report.val, report.test) == (440, 20, 20)
    held_out = pl.concat([pl.read_parquet(tmp_path / "split" / f"{part}.parquet") for part in ("val", "test")])
    assert (held_out["user_index"] % 2 == held_out["item_index"] % 2).all()
    assert sorted(held_out["user_index"]) == list(range(40))


def test_a_query_is_checked_while_it_is_written(tmp_path):
    rows = pl.LazyFrame(
        {"user_index": [0, 1], "item_index": [1, None], "weight": [1.0, 2.0]}, schema=EDGES.format.schema
    )
    EDGES.sink(rows.drop_nulls(), tmp_path / "edges.parquet")
    assert EDGES.format.read(tmp_path / "edges.parquet").rows() == [(0, 1, 1.0)]
    with pytest.raises(DarecError, match="column 'item_index' is null in 1 of 2 rows"):
        EDGES.sink(rows, tmp_path / "edges.parquet")
    with pytest.raises(DarecError, match="column 'weight' is missing"):
        EDGES.sink(rows.drop("weight"), tmp_path / "edges.parquet")


def test_reports_say_what_was_there(source, tmp_path):
    outcome = run(INGEST, recipe(source), tmp_path)
    assert outcome.rows == 480
    assert {name: getattr(outcome.report, name) for name in ("rows_in", "users", "items", "density")} == {
        "rows_in": 480,
        "users": 40,
        "items": 24,
        "density": 0.5,
    }
