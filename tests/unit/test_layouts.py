"""Every layout of a log that people have gives the same tables, and is described without being told."""

from pathlib import Path

import pytest

from darec.common.strict_yaml import parse
from darec.dataset.clean import clean
from darec.dataset.inspect import inspect
from darec.dataset.readers import read_source
from schemas.data import DataConfig
from tests.logs import LAYOUTS, ROWS, Layout


def read(data: dict):
    config = DataConfig.model_validate(data)
    return clean(read_source(config), config)


def expected(layout: Layout) -> list[tuple]:
    return sorted((user, item, float(rating), layout.times(time)) for user, item, rating, time in ROWS)


def found(data: dict) -> list[tuple]:
    table = read(data | {"min_rating": None}).interactions.select("user_id", "item_id", "rating", "timestamp")
    return [(user.replace("é", "u"), *rest) for user, *rest in table.rows()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_gives_the_same_interactions(layout, tmp_path, monkeypatch):
    layout.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert sorted(found(layout.data)) == expected(layout)


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each.is_inspected], ids=lambda layout: layout.name)
def test_inspect_describes_every_layout_unaided(layout, tmp_path, monkeypatch):
    layout.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    places = layout.places or [name for name in layout.files if not Path(name).name.startswith((".", "_"))]
    section = parse(inspect(places).yaml)
    assert sorted(found(section["data"])) == expected(layout), section
