"""What a chart shows, read back from its SVG."""

import re
from base64 import b64decode
from pathlib import Path
from xml.etree import ElementTree

import pytest

from darec.common.charts import Chart, Figure, Scatter, Series, image_uri, line_chart, save, scatter


def saved(tmp_path: Path, *charts: Chart | Scatter, title: str = "all") -> ElementTree.Element:
    return ElementTree.parse(save(Figure(title, (charts,), width=100, height=100), tmp_path / "f.svg")).getroot()


def numbers(path: str | None) -> list[float]:
    return [float(number) for number in re.findall(r"[-.0-9]+", path or "")]


def test_equal_steps_of_values_are_equal_steps_on_the_page_and_larger_is_higher():
    root = ElementTree.fromstring(line_chart(Chart("t", "epoch", (Series("a", ((0, 1.0), (1, 2.0), (3, 0.0))),))))
    line = root.find("polyline")
    assert line is not None and line.get("points") == "46.0,88.0 147.3,8.0 350.0,168.0"


def test_bars_stand_on_their_base_and_are_as_high_as_their_values(tmp_path: Path):
    users = Series("users", ((1, 10), (2, 20)), "bars")
    items = Series("items", ((1, 15), (2, 20)), "bars", base=(10, 20))
    bars = [bar for bar in saved(tmp_path, Chart("", "", (users, items))).iterfind("{*}rect") if len(bar)]
    assert [bar[0].text for bar in bars] == ["users: 10", "users: 20", "items: 5", "items: 0"]
    heights = [float(bar.get("height", "")) for bar in bars]
    assert heights == [45, 90, 22.5, 0]
    assert float(bars[2].get("y", "")) + heights[2] == pytest.approx(float(bars[0].get("y", "")), abs=0.1)


def test_error_bars_reach_from_value_minus_to_value_plus_error(tmp_path: Path):
    points = Series("m", ((1.0, 0), (3.0, 1)), "dots", x_errors=(0.5, 0.0), labels=("1.0", "3.0"))
    root = saved(tmp_path, Chart("", "x", (points,), y_names=("first", "second")))
    first, second = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iterfind("{*}circle")]
    assert first[1] < second[1], "rows are from top to bottom"
    (bar,) = root.findall("{*}path")
    left, y, right, _ = numbers(bar.get("d"))[:4]
    unit = (second[0] - first[0]) / 2
    assert (left, right) == pytest.approx((first[0] - unit / 2, first[0] + unit / 2), abs=0.1) and y == first[1]
    assert {"first", "second", "1.0", "3.0"} <= {text.text for text in root.iterfind("{*}text")}


def test_the_legend_names_each_series_once_and_keeps_its_colour(tmp_path: Path):
    line, level = Series("line <", ((0, 1.0), (1, 2.0)), "marked"), Series("level", ((0, 1.5),), "level", colour=3)
    root = saved(tmp_path, Chart("one", "", (line, level)), Chart("two", "", (line, level)))
    keys = [key.get("class") for key in root.iterfind("{*}rect")]
    assert keys == ["key c0", "key c3"]
    assert [text.text for text in root.iterfind("{*}text")].count("line <") == 1
    assert [mark.get("class") for mark in root.iterfind("{*}line") if "level" in mark.get("class", "")] == [
        "line level c3"
    ] * 2
    alone = saved(tmp_path, Chart("one", "", (line,)))
    assert not alone.findall("{*}rect")


def test_points_without_a_text_are_one_path_per_colour(tmp_path: Path):
    points = ((0.0, 0.0, 0, ""), (1.0, 1.0, 1, ""), (2.0, 0.0, 0, ""))
    root = saved(tmp_path, Scatter("p", points, ("cf", "text")))
    clouds = {path.get("class"): numbers((path.get("d") or "").replace("h0", " ")) for path in root.iterfind("{*}path")}
    assert {name: len(places) // 2 for name, places in clouds.items()} == {"cloud c0": 2, "cloud c1": 1}
    assert clouds["cloud c1"][1] < clouds["cloud c0"][1] == clouds["cloud c0"][3], "larger is higher"


def test_whole_numbers_have_no_ticks_between_them():
    root = ElementTree.fromstring(line_chart(Chart("t", "night", (Series("a", ((1, 0.5), (2, 0.6), (3, 0.7))),))))
    assert [text.text for text in root.iterfind("text") if text.get("y") == "184.0"] == ["1", "2", "3", "night"]


def test_charts_without_points_are_empty():
    assert scatter(Scatter("p", ())) == ""
    assert ElementTree.fromstring(b64decode(image_uri(Chart("empty", "epoch", ())).split(",")[1])).get("viewBox")


def test_a_chart_of_zeros_has_no_negative_values():
    root = ElementTree.fromstring(line_chart(Chart("t", "run", (Series("tokens", ((0, 0.0), (1, 0.0))),))))
    assert not [label.text for label in root.iterfind("text") if (label.text or "").startswith("-")]
