"""Every recipe under configs/ is valid and trains."""

from pathlib import Path

import pytest

from benchmarks.data import BenchData
from benchmarks.grid import expand
from benchmarks.tune import SearchContext, searches
from darec.common.recipes import load, load_recipe
from darec.training import train
from darec.training.search import candidates
from schemas.bench import BenchRecipe, TuneRecipe
from schemas.recipe import Recipe
from tests.checkerboard import checkerboard, parity_text

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_settings_of_a_recipe_train_a_model(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    if recipe.search:
        assert len(candidates(recipe.search, recipe.train)) > 1
    settings = recipe.train.model_copy(update={"epochs": 2, "eval_every": 1, "device": "cpu"})
    data = checkerboard(tmp_path)
    trained = train(settings, data, parity_text(data))
    assert trained.epochs == 2
    assert trained.validation["recall@20"] > 0
    if path.stem == "darec-paper":
        terms = {name for name in trained.history["name"].unique() if name.startswith("loss/darec/")}
        published = ("orthogonality", "uniformity", "global_structure", "local_structure")
        assert terms == {f"loss/darec/{term}" for term in published}


@pytest.mark.parametrize("path", sorted((CONFIGS / "bench").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_is_a_grid_of_valid_settings(path: Path) -> None:
    entries = expand(load(BenchRecipe, path))
    assert len({(each.data, each.backbone, each.alignment, each.seed) for each in entries}) == len(entries) > 0


@pytest.mark.parametrize("path", sorted((CONFIGS / "tune").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_is_valid_for_the_recipe_that_it_starts_from(path: Path, tmp_path: Path) -> None:
    recipe = load(TuneRecipe, path)
    (source,) = map(Path, recipe.data.values())
    base = load_recipe(CONFIGS.parent / source) if source.suffix == ".yaml" else Recipe()
    found = searches(recipe, SearchContext(base, tuple(Recipe.model_fields), _no_data), tmp_path)
    assert len(found) == max(1, len(recipe.methods))


def _no_data(recipe: Recipe) -> BenchData:
    raise AssertionError("data is read when a search starts")
