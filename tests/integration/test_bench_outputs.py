"""Plots and speed tables come out of real, tiny runs."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl

from benchmarks import plots, speed
from benchmarks.data import from_folder
from benchmarks.grid import expand
from benchmarks.parts import before_and_after
from benchmarks.results import Results, collect
from benchmarks.runs import Run, run_grid
from darec.artifacts.store import Store
from darec.common import charts
from darec.common.progress import Silent
from darec.common.recipes import load
from schemas.bench import BenchRecipe
from tests.bench_samples import RECIPE, write_board, write_recipe

SWEEP = "sweeps: [{{ label: K, of: darec, field: alignment.0.centres, values: [2, 3] }}]\n"


def drawn(path: Path) -> ElementTree.Element:
    """The root of a picture, after a check that everything in it is inside the view box."""
    root = ElementTree.parse(path).getroot()
    width, height = map(float, root.get("viewBox", "").split()[2:])
    for element in root.iter():
        for name, limit in (("x", width), ("x1", width), ("cx", width), ("y", height), ("y1", height), ("cy", height)):
            assert 0 <= float(element.get(name, 0)) <= limit, ElementTree.tostring(element)
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iterfind("{*}text")]


def test_every_plot_is_produced(tmp_path):
    recipe = load(BenchRecipe, write_recipe(tmp_path, RECIPE.replace("seeds: [0, 1]", "seeds: [0]") + SWEEP))
    data = from_folder("board", tmp_path / "board")
    runs = [Run(entry, data, recipe.evaluate) for entry in expand(recipe)]
    store = Store(tmp_path / "store")
    artifacts = [result.artifact for _, result in run_grid(list(runs), store, Silent())]
    written = plots.plot_all(recipe, collect(runs, store), tmp_path / "out")
    before, after = before_and_after(runs[1], artifacts[1])
    written.append(charts.save(plots.parts(before, after, "parts"), tmp_path / "out" / "parts.svg"))
    assert [path.stem for path in written] == ["board-accuracy", "board-sparsity", "board-sensitivity", "parts"]
    accuracy, sparsity, sensitivity, parts = map(drawn, written)
    methods = [name for name in texts(accuracy) if " + " in name]
    assert len(methods) == len(runs) - 2  # without the two values of the sweep
    assert len(accuracy.findall("{*}circle")) == 2 * len(methods)
    assert len(sparsity.findall("{*}rect/{*}title")) % (2 * len(methods)) == 0
    assert {"2", "3", "K"} <= set(texts(sensitivity)) and len(sensitivity.findall("{*}circle")) % 2 == 0
    dots = Counter(path.get("class") for path in parts.findall("{*}path") for _ in path.get("d", "").split("M")[1:])
    assert sum(dots.values()) == 2 * sum(len(rows) for rows in before.values())
    assert set(before) == {"cf shared", "cf specific", "text shared", "text specific"}
    np.testing.assert_allclose(np.linalg.norm(after["cf shared"], axis=1), 1, atol=1e-5)
    assert not np.array_equal(before["cf shared"], after["cf shared"])


def shown_values(part: str, value: float) -> list[dict]:
    names = {"data": "d", "backbone": "b", "seed": 0, "part": part}
    return [
        names | {"alignment": alignment, "metric": metric, "value": value + number}
        for number, alignment in enumerate(("none", "darec", "darec K=2"))
        for metric in ("recall@20", "ndcg@20")
    ]


def test_what_choices_are_made_by_is_validation():
    runs = pl.DataFrame(shown_values("val", 0.25) + shown_values("test", 0.5))
    results = Results(runs, pl.DataFrame())
    sweep = {"label": "K", "of": "darec", "field": "alignment.0.centres", "values": [2]}
    recipe = BenchRecipe.model_validate(
        {"name": "t", "data": {"d": "x"}, "backbones": {"b": {}}, "alignments": {"none": {}, "darec": {}}}
        | {"sweeps": [sweep]}
    )
    ((panel,),) = plots.sensitivity(recipe, results, "d").rows
    assert isinstance(panel, charts.Chart) and panel.x_names == ("2",)
    assert {series.name: series.points for series in panel.series} == {
        "b + darec": ((0, 2.25),),
        "b + none": ((0, 0.25),),
    }
    for part, lowest in (("val", 0.25), ("test", 0.5)):
        panel = plots.accuracy(results, "d", results.methods("d"), part).rows[0][0]
        assert isinstance(panel, charts.Chart) and panel.y_names == ("b + none", "b + darec", "b + darec K=2")
        assert panel.series[0].points == ((lowest, 0), (lowest + 1, 1), (lowest + 2, 2))


def test_sparsity_groups_cover_all_users_once():
    counts = [1, 1, 1, 2, 2, 3, 5, 9]
    users = pl.DataFrame({"user_index": range(8), "train_count": counts})
    bounds = plots.bounds(users)
    assert [sum(low <= count <= high for low, high in bounds) for count in counts] == [1] * 8
    values = {"data": "d", "backbone": "b", "alignment": "a", "recall@20": [float(count) for count in counts]}
    results = Results(
        pl.DataFrame(),
        users.with_columns(**{k: pl.lit(v) if isinstance(v, str) else pl.Series(v) for k, v in values.items()}),
    )
    assert plots.group_mean(results, "d", ("b", "a"), "recall@20", (2, 3)) == (2 + 2 + 3) / 3


def test_the_speed_table_divides_medians(tmp_path):
    data = from_folder("board", write_board(tmp_path))
    measured, growth = speed.measure(data, 1, Silent(), None)
    assert growth < 200
    assert {name: len(each.epochs) for name, each in measured.items()} == {
        speed.FULL: 5,
        speed.DROPPED: 5,
        speed.ALIGNED: 5,
        speed.PLAIN: 1,
    }
    for name, seconds in {speed.FULL: 2.0, speed.DROPPED: 3.0, speed.ALIGNED: 4.5, speed.PLAIN: 12.0}.items():
        measured[name].epochs, measured[name].evaluations = [(seconds, 2 * seconds)], []
    measured[speed.FULL].evaluations, measured[speed.PLAIN].evaluations = [(0.5, 0.5)], [(10.0, 1.0)]
    rounds = [(7.0, 8.0), (8.0, 8.0), (90.0, 8.0)]
    measured[speed.RECBOLE] = speed.Candidate(epochs=rounds, evaluations=[(5.0, 5.0)])
    measured[speed.RECBOLE_SINGLY] = speed.Candidate(evaluations=[(25.0, 50.0)])
    lines = {
        line.split(" | ")[0].strip("| "): line for line in speed.table(measured, 0.0, data.interactions).splitlines()
    }
    assert "1.50 x (1.50 x)" in lines[speed.ALIGNED]
    assert "| 4.00 x (4.00 x) | 10.00 (1.00) | 20.00 x (2.00 x) |" in lines[speed.PLAIN]
    assert "| 4.00 x (2.00 x) | 5.00 (5.00) | 10.00 x (10.00 x) |" in lines[speed.RECBOLE]
    (derived,) = [line for name, line in lines.items() if name.startswith("RLMRec")]
    assert f"{8 * speed.RLMREC_EPOCH / 3:.2f} x" in derived
    assert f"{25 * speed.RLMREC_EVALUATION / 0.5:.2f} x" in derived
    assert "| RecBole, one user at a time (its default) |  |  | 25.00 (50.00) | 50.00 x (100.00 x) |" in lines.values()


def test_the_plain_loop_ranks_as_the_protocol_does(tmp_path):
    import torch

    from benchmarks.peer_plain_loop import PlainLightGCN
    from darec.common.interactions import Representations
    from darec.evaluation.protocol import rank, score

    data = from_folder("board", write_board(tmp_path)).interactions
    plain = PlainLightGCN(data, 8, 256)
    plain.epoch()
    with torch.no_grad():
        final = Representations(torch.cat(plain.propagate(1.0)), data.n_users)
    ours = score(rank(final, data.train, data.test, 20), data.test, data.n_items, (20,), ("recall",)).means()
    assert abs(plain.evaluate() - ours["recall@20"]) < 1e-9
