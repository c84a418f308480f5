"""Numbers in result tables, against hand calculation."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmarks import plots
from benchmarks.results import Results
from benchmarks.tables import costs, joint, table
from darec.artifacts.store import Store
from pipelines.cli.bench_options import Grid, write_grid_tables
from schemas.bench import BenchRecipe

METRICS = ("recall@20", "ndcg@20")
USERS = {"none": [[0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.0]], "darec": [[0.3, 0.2, 0.5, 0.6], [0.5, 0.4, 0.3, 0.0]]}


def results() -> Results:
    names = {"data": "board", "backbone": "mf"}
    runs, users = [], []
    for alignment, seeds in USERS.items():
        for seed, values in enumerate(seeds):
            labels = names | {"alignment": alignment, "seed": seed}
            cost = {"epochs": 10, "best_epoch": 4 + 2 * seed, "train_seconds": 20.0}
            for part in ("val", "test"):
                runs += [labels | cost | {"part": part, "metric": m, "value": sum(values) / 4} for m in METRICS]
            users += [labels | {"user_index": u} | dict.fromkeys(METRICS, v) for u, v in enumerate(values)]
    return Results(pl.DataFrame(runs), pl.DataFrame(users))


def cells(text: str, alignment: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if f"| {alignment} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_mean_spread_change_and_p():
    row = cells(table(results(), "board", "none"), "darec")
    # seeds: 0.4 and 0.3 -> mean 0.35, sample deviation 0.0707; none: 0.25 and 0.15 -> 0.2, so +75 %
    assert row[:4] == ["mf", "darec", "2", "0.3500 ± 0.0707"]
    gaps = [0.2, 0.1, 0.2, 0.1]  # per user, of the means over seeds
    p = stats.ttest_1samp(gaps, 0.0).pvalue
    assert row[-1] == f"+75.0% (p {p:.3f})"


def test_the_reference_is_not_compared_with_itself():
    assert cells(table(results(), "board", "none"), "none")[-2:] == ["", ""]
    assert "R@20 vs darec" in table(results(), "board", "darec")


def test_costs():
    assert cells(costs(results(), "board"), "none") == [
        "mf", "none", "0.2000 ± 0.0707", "5", "10", "20", "2.00",
    ]  # fmt: skip


def finished(*runs: tuple[str, str, float], metrics: tuple[str, ...] = METRICS) -> Results:
    """Results of runs (data, alignment, value): further ones of a method have further seeds, NDCG is half of recall."""
    rows = []
    for number, (data, alignment, value) in enumerate(runs):
        seed = [run[:2] for run in runs[:number]].count((data, alignment))
        labels = {"data": data, "backbone": "mf", "alignment": alignment, "seed": seed, "part": "test"}
        rows += [labels | {"metric": m, "value": value / 2 if "ndcg" in m else value} for m in metrics]
    return Results(pl.DataFrame(rows), pl.DataFrame(schema=metrics))


def joint_rows(found: Results, *alignments: str) -> list[str]:
    return joint(found, ["a", "b"], [("mf", name) for name in alignments]).splitlines()


def test_all_data_sets_in_one_table_in_the_order_of_the_recipe():
    found = finished(("b", "none", 0.2), ("a", "darec", 0.4), ("a", "none", 0.1))
    assert joint_rows(found, "none", "never run", "darec") == [
        "R@20 / N@20 on test, the best of each data set in bold; seeds: 1",
        "",
        "| backbone | alignment | a | b |",
        "| --- | --- | --- | --- |",
        "| mf | none | 0.1000 / 0.0500 | **0.2000** / **0.1000** |",
        "| mf | darec | **0.4000** / **0.2000** |  |",
    ]


def test_the_joint_table_counts_seeds_where_they_differ():
    found = finished(("a", "none", 0.2), ("a", "none", 0.4), ("b", "none", 0.2), ("b", "darec", 0.20001))
    caption, *_, none, darec = joint_rows(found, "none", "darec")
    assert caption.endswith("the number of seeds in brackets")
    both = "**0.2000** / **0.1000** (1)"  # equal in the digits that are shown
    assert none == f"| mf | none | **0.3000 ± 0.1414** / **0.1500 ± 0.0707** (2) | {both} |"
    assert darec == f"| mf | darec |  | {both} |"


def test_without_a_cutoff_of_20_the_joint_table_has_the_largest():
    metrics = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    assert joint_rows(finished(("a", "none", 0.2), ("b", "none", 0.2), metrics=metrics), "none")[0].startswith(
        "R@10 / N@10"
    )


def test_the_file_of_tables_begins_with_the_joint_one_where_there_are_several_data_sets(tmp_path, monkeypatch):
    found = pl.concat([results().runs.with_columns(data=pl.lit(name)) for name in ("b", "a")])
    users = pl.concat([results().users.with_columns(data=pl.lit(name)) for name in ("b", "a")])
    monkeypatch.setattr("benchmarks.results.collect", lambda runs, store: Results(found, users))
    recipe = BenchRecipe(
        name="t",
        data={name: Path(name) for name in ("a", "unfinished", "b")},
        backbones={"mf": {}},
        alignments={name: {"alignment": []} for name in ("none", "darec")},
    )
    text = write_grid_tables(Grid(recipe, [], Store(tmp_path), tmp_path), "none")
    assert text == (tmp_path / "table.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### All data sets", "### a", "### b"]
    assert "| backbone | alignment | a | b |" in text

    one = recipe.model_copy(update={"data": {"a": Path("a")}})
    assert write_grid_tables(Grid(one, [], Store(tmp_path), tmp_path), "none").startswith("### a\n")


@pytest.mark.parametrize("missing", ["other"])
def test_without_the_reference_nothing_is_compared(missing):
    assert cells(table(results(), "board", missing), "darec")[-2:] == ["", ""]


def test_parts_of_two_spaces_are_drawn_each_by_itself():
    rows = {"cf shared": np.eye(4)[:, :3], "text shared": np.eye(4)}
    panels = [panel for row in plots.parts(rows, rows, "parts").rows for panel in row]
    assert [len(panel.points) for panel in panels] == [4, 4, 4, 4]
    assert [panel.title for panel in panels[:2]] == ["cf shared, before training", "text shared, before training"]
    colours = [[colour for _, _, colour, _ in panel.points] for panel in panels]
    assert colours[0] == colours[1] == colours[2] == colours[3]  # a node's colour is its group among the texts


def test_parts_of_one_space_are_drawn_together():
    rows = {f"{side} {kind}": np.eye(4) for side in ("cf", "text") for kind in ("shared", "specific")}
    panels = [panel for row in plots.parts(rows, rows, "parts").rows for panel in row]
    assert [[colour for _, _, colour, _ in panel.points] for panel in panels] == [[0] * 4 + [1] * 4] * 4
    assert {panel.names for panel in panels} == {("cf", "text")}
