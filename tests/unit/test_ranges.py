"""Ingest and split in ranges of users: the same rows as at once, and memory that grows by some tens of bytes a row."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from benchmarks.scale import recipe_for
from darec.artifacts.files import INTERACTIONS
from darec.artifacts.formats import VectorFile, Vectors
from darec.common import ranges
from darec.dataset.clean import clean
from darec.dataset.readers import read_source
from darec.dataset.split import split_interactions
from schemas.data import DataConfig, SplitConfig
from schemas.tables import PARTS
from tests.memory import peak_growth


@pytest.fixture
def log(tmp_path):
    """A log with repeats, in which some users have far more rows than others."""
    draw = np.random.default_rng(4)
    users, items = (300 * draw.random(4000) ** 2).astype(int), (120 * draw.random(4000) ** 2).astype(int)
    table = pl.DataFrame(
        {"user_id": users, "item_id": items, "time": draw.integers(1_400_000_000, 1_500_000_000, 4000)}
    )
    table.write_parquet(tmp_path / "log.parquet")
    columns = {"timestamp": "time"}
    return DataConfig.model_validate(
        {"source": "parquet", "interactions": tmp_path / "log.parquet", "interaction_columns": columns}
    )


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_ranges_give_the_rows_that_are_had_at_once(log, rows, tmp_path, monkeypatch):
    whole = clean(read_source(log, tmp_path), log)
    parts = {
        kind: split_interactions(whole.interactions, SplitConfig(strategy=kind)) for kind in ("temporal", "random")
    }
    monkeypatch.setattr(ranges, "_ROWS", rows)
    again = clean(read_source(log, tmp_path), log)
    assert again.interactions.equals(whole.interactions)
    assert again.report == whole.report
    for kind, expected in parts.items():
        found = split_interactions(
            again.interactions.sample(fraction=1, shuffle=True, seed=1), SplitConfig(strategy=kind)
        )
        assert all(found.parts[part].equals(expected.parts[part]) for part in PARTS)
        assert found.items.equals(expected.items)


def test_ranges_hold_whole_users_and_every_row_once(monkeypatch):
    monkeypatch.setattr(ranges, "_ROWS", 10)
    users = pl.Series("user", [0] * 35 + [1] * 4 + [3] * 4 + [4] * 12 + [9], dtype=pl.Int32)
    found = list(ranges.of_users(users.shuffle(seed=2).to_frame(), "user"))
    assert sorted(user for part in found for user in part["user"]) == users.to_list()
    owners = [set(part["user"]) for part in found]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert all(max(one) < min(other) for one, other in pairwise(owners))
    assert max(part.height for part in found[1:]) <= 10 + 12


def test_numbers_that_occur_become_consecutive():
    numbers, present = ranges.renumbered(pl.Series("n", [7, 2, 2, 9, 7], dtype=pl.Int32))
    assert (numbers.to_list(), numbers.dtype, present.to_list()) == ([1, 0, 0, 2, 1], pl.Int32, [2, 7, 9])


CLEAN = "clean(read_source(config, folder), config)"
INGEST = f"INTERACTIONS.sink({CLEAN}.query, folder / 'clean.parquet')"
SPLIT = "split_interactions(pl.scan_parquet(folder / 'clean-1500000.parquet'), recipe.split)"


@pytest.mark.parametrize(("work", "most"), [(INGEST, 150), (SPLIT, 130)])
def test_peak_bytes_of_a_row(tmp_path, work, most):
    rows, few = 1_500_000, 20_000
    for count in (few, rows):  # in this process: memory that the other one has freed would hide what the work takes
        config = recipe_for(tmp_path, count).data
        if work == SPLIT or count == few:
            INTERACTIONS.sink(clean(read_source(config, tmp_path), config).query, tmp_path / f"clean-{count}.parquet")
    setup = (
        "from pathlib import Path\nimport polars as pl\nfrom benchmarks.scale import recipe_for\n"
        "from darec.artifacts.files import INTERACTIONS\n"
        "from darec.common import ranges\nfrom darec.dataset.clean import clean\n"
        "from darec.dataset.readers import read_source\nfrom darec.dataset.split import split_interactions\n"
        f"ranges._ROWS = 200_000\nfolder = Path(r'{tmp_path}')\n"
        f"few, recipe = (recipe_for(folder, n) for n in ({few}, {rows}))\n"
        "config = recipe.data\n"
        "split_interactions(pl.scan_parquet(folder / 'clean-20000.parquet'), recipe.split)\n"
        "clean(read_source(few.data, folder), few.data)\n"
    )
    # When the allocator gives freed memory back is a matter of time, which adds up to 40 bytes a row now and then.
    assert any(peak_growth(setup, work) < most * rows for _ in range(3))


def test_vectors_are_mapped_and_changes_do_not_reach_the_file(tmp_path):
    path, sides = tmp_path / "vectors.safetensors", [np.ones((100_000, 96), np.float32), np.zeros((0, 96), np.float32)]
    VectorFile().write(Vectors(*sides), path)
    setup = f"from pathlib import Path\nfrom darec.artifacts.formats import VectorFile\npath = Path({str(path)!r})"
    assert peak_growth(f"{setup}\nVectorFile().read(path).user[0]", "found = VectorFile().read(path)") < 4e6  # of 38e6

    VectorFile().read(path).user[:] = 2
    found = VectorFile().read(path)
    assert found.item.shape == (0, 96) and (found.user == 1).all()
