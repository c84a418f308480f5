"""Numbers in result tables, against hand calculation."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmarks import plots
from benchmarks.results import Results
from benchmarks.tables import costs, table

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
