"""Recall by the popularity of items, and lists beyond accuracy, from the vectors of finished runs."""

from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import slices
from benchmarks.data import BenchData, from_folder
from darec.common.interactions import Interactions, Pairs, Representations
from pipelines.cli import app
from tests.bench_samples import RECIPE, write_board, write_recipe


def test_slices_count_only_their_own_items_by_hand() -> None:
    # Item 0 is in no history, item 1 in one, items 2 and 3 in six and in 21; every user's test holds items 0 to 3.
    users = torch.arange(21)
    histories = [(4, users), (1, users[:1]), (2, users[:6]), (3, users)]
    train = Pairs(
        torch.cat([each for _, each in histories]), torch.cat([torch.full_like(each, item) for item, each in histories])
    )
    test = Pairs(torch.tensor([20, 20, 20]), torch.tensor([0, 1, 2]))
    data = BenchData("hand", Interactions(21, 5, train, test, test), None, "", None)
    assert [len(part) for part in slices._by_popularity(data).values()] == [1, 1, 1, 0]

    final = Representations(torch.ones(26, 1), 21)
    found = slices.measure(final, data)
    assert found["0 (1 pairs)"] == found["1 to 5 (1 pairs)"] == 1.0, "all five items are in a list of twenty"
    assert "from 21 (0 pairs)" not in found
    assert found["coverage"] == 1.0
    # The user's history has one item each of groups 0 and 1, the list one, one and three of groups 0, 1 and 2:
    # (log2(.5 / .35) + .4 log2(.2 / .35) + .6 log2(.6 / .3)) / 2
    assert found["calibration"] == pytest.approx(0.3958, abs=1e-4)
    assert "diversity" not in found, "it needs text"


def test_slices_by_age_need_timestamps(tmp_path: Path) -> None:
    folder = write_board(tmp_path)
    table = pl.read_parquet(folder / "interactions.parquet")
    assert slices._by_age(from_folder("board", folder)) == {}
    day = pl.col("item_id").cast(pl.Int64) * 86_400  # the first interaction of item n is on day n
    table.with_columns(timestamp=day + 1_600_000_000).write_parquet(folder / "interactions.parquet")

    data = from_folder("board", folder)
    assert data.ages is not None
    known = torch.unique(data.interactions.train.items)
    assert torch.equal(data.ages[known], known.max() - known)
    parts = list(slices._by_age(data).values())
    in_train = torch.isin(data.interactions.test.items, known)
    assert len(parts) == slices.AGES and sum(map(len, parts)) == int(in_train.sum())
    found = slices.measure(Representations(torch.rand(100, 2), 40), data)
    assert slices._by_age(data).keys() <= found.keys()


def test_text_gives_diversity(tmp_path: Path) -> None:
    data = from_folder("board", write_board(tmp_path))
    parity = torch.zeros(100, 2)
    parity[torch.arange(100), torch.arange(100) % 2] = 1
    parity[:40] = parity[:40].flip(1)  # lists of items of the other parity, none of which is in the train part
    alike, mixed = (
        slices.measure(Representations(nodes, 40), data)["diversity"] for nodes in (parity, torch.rand(100, 2))
    )
    assert alike < mixed


def test_the_command_reads_finished_runs(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("seeds: [0, 1]", "seeds: [0]"))
    options = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--only", "none"]
    before = CliRunner().invoke(app, ["bench", "slices", str(recipe), *options])
    assert before.exit_code != 0 and "finished" in str(before.exception)
    assert CliRunner().invoke(app, ["bench", "run", str(recipe), *options]).exit_code == 0
    after = CliRunner().invoke(app, ["bench", "slices", str(recipe), *options])
    assert after.exit_code == 0, after.output
    text = (tmp_path / "out" / "slices.md").read_text()
    assert "popularity" in text and "lightgcn" in text and "| long_tail | calibration | coverage | gini |" in text
