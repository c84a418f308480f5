"""`darec compare`: two recipes on one split, with paired tests, shared stages and a page."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from scipy import stats

from darec.artifacts import files
from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.report.comparison import compare_runs, comparison_page
from darec.report.source import Source
from tests import report_samples
from tests.stores import recipe_for

DAREC = Path(sys.executable).with_name("darec")


def test_two_recipes_are_compared_by_the_command_and_share_their_stages(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, tmp_path / "store")
    command = [DAREC, "compare", str(recipe), "--set", "train.learning_rate=1e-9", "--out", "page.html", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    store = Store(tmp_path / "store")
    made = {stage: len(store.artifacts(stage)) for stage in ("ingest", "split", "graph", "train", "evaluate")}
    assert made == {"ingest": 1, "split": 1, "graph": 1, "train": 2, "evaluate": 2}
    assert not (tmp_path / "store" / "current").exists(), "nothing is published"
    assert [line.split(":")[0] for line in found["config"]] == ["train.learning_rate"] and found["users"] == 20

    first, second = (pl.read_parquet(each.path / "per_user.parquet") for each in store.artifacts("evaluate")[::-1])
    row = next(each for each in found["metrics"] if each["name"] == "recall@5")
    gap = (second["recall@5"].cast(pl.Float64) - first["recall@5"].cast(pl.Float64)).to_numpy()
    assert row["difference"] == pytest.approx(gap.mean()) and row["first"] > row["second"]
    assert row["wilcoxon"] == pytest.approx(stats.wilcoxon(gap, zero_method="pratt").pvalue)
    t_test = stats.ttest_1samp(gap, 0.0)
    interval = t_test.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    page = (tmp_path / "page.html").read_text()
    assert "train.learning_rate: 0.001 -&gt; 1e-09" in page and "<script" not in page

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 2 and "the file exists" in again.stderr


def test_texts_and_users_that_changed_are_shown_and_escaped(tmp_path: Path) -> None:
    chosen = report_samples.recipe(tmp_path)
    report_samples.make_hostile(tmp_path)
    keys = report_samples.run(chosen, "evaluate")
    other = report_samples.recipe(tmp_path, train={"epochs": 1, "eval_every": 1, "dim": 8, "learning_rate": 1e-6})
    other_keys = report_samples.run(other, "evaluate")
    store = Store(chosen.runtime.store)
    sources = Source.of_run(store, other_keys), Source.of_run(store, keys)

    found = compare_runs(("first", "second"), (other, chosen), sources, "recall@10", examples=2)
    gains = [example.second_value - example.first_value for example in found.examples]
    assert (found.examples and gains == sorted(gains, reverse=True)) or any(gain < 0 for gain in gains)
    per_user = [source.read(files.METRICS)["test"]["recall@10"] for source in sources]
    row = next(each for each in found.metrics if each.name == "recall@10")
    assert (row.first, row.second) == pytest.approx(tuple(per_user))
    for example in found.examples:
        for value, shown in ((example.first_value, example.first_list), (example.second_value, example.second_list)):
            hits = sum(hit for _, hit in shown)
            assert hits == round(value * len(example.wanted)), "the lists are those that were evaluated"
    page = comparison_page(found)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert [part.changed for part in found.texts] == [0, 0]

    with pytest.raises(UserError, match="no metric 'ndcg@3'"):
        compare_runs(("a", "b"), (other, chosen), sources, "ndcg@3")


def test_another_split_is_refused(tmp_path: Path) -> None:
    chosen = report_samples.recipe(tmp_path)
    first = report_samples.run(chosen, "split")
    ratios = chosen.split.model_copy(update={"ratios": (0.5, 0.1, 0.4)})
    second = report_samples.run(chosen.model_copy(update={"split": ratios}), "split")
    store = Store(chosen.runtime.store)
    sources = Source.of_run(store, first), Source.of_run(store, second)
    with pytest.raises(UserError, match=r"do not have the same split \(.*test.parquet"):
        compare_runs(("a", "b"), (chosen, chosen), sources)
