"""The public API: its names, their parameters, what importing it loads, and where the version is written."""

import inspect
import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import darec

PARAMETERS = {
    "evaluate": ["final", "reference", "data", "config", "catalogue", "reranker", "ranker", "ages"],
    "load_recipe": ["path", "settings"],
    "recommend": ["bundle", "user_id", "k", "rules"],
    "recommend_histories": ["bundle", "histories", "k", "rules"],
    "recommend_many": ["bundle", "user_ids", "k", "rules"],
    "run": ["recipe", "until", "force", "progress"],
    "similar": ["bundle", "item_id", "k", "rules"],
    "train": [
        *("config", "interactions", "text"),
        *("adjacency", "warm", "last_epoch", "resume", "progress", "listener", "text_share"),  # by keyword
    ],
}
"""The functions. A change here affects all users' code: it belongs in CHANGELOG.md."""

CLASSES = {
    "Bundle": {"open", "folder", "report", "items", "users", "user_ids", "seen"},
    "DarecError": {"exit_code"},
    "EvaluateConfig": {"model_validate"},
    "Interactions": {"n_users", "n_items", "train", "val", "test"},
    "Pairs": {"of", "of_table", "users", "items"},
    "Recipe": {"model_validate"},
    "Release": {"created"},
    "Releases": {"all", "current", "get", "serving", "promote", "rollback", "diff"},
    "Representations": {"join", "user", "item", "nodes", "n_users"},
    "Rules": {"model_validate"},
    "TrainConfig": {"model_validate"},
    "Trained": {"final", "state", "history", "best_epoch", "epochs", "validation"},
    "UserError": {"exit_code"},
}
"""The classes, and what others use of each."""

STABLE = {
    "Bundle", "DarecError", "Recipe", "Release", "Releases", "Rules", "UserError", "__version__", "load_recipe",
    "recommend", "recommend_many", "run", "similar",
}  # fmt: skip

IMPORTED = "import sys, darec; dir(darec); print(*sys.modules)"
HEAVY = {"faiss", "numpy", "polars", "prefect", "pydantic", "torch", "transformers", "vllm"}


def test_the_names_are_frozen():
    assert set(darec.__all__) == {*PARAMETERS, *CLASSES, "__version__"}
    assert set(darec.STABLE) == STABLE
    assert set(darec.__all__) <= set(dir(darec))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_of_a_function_are_frozen(name):
    assert list(inspect.signature(getattr(darec, name)).parameters) == PARAMETERS[name]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_keeps_what_others_use_of_it(name):
    kind = getattr(darec, name)
    assert {*dir(kind), *getattr(kind, "__dataclass_fields__", ())} >= CLASSES[name]


def test_the_docstring_says_of_each_name_how_stable_it_is():
    stable, experimental = darec.__doc__.split("Experimental names")
    for name in darec.__all__:
        assert name in (stable if name in STABLE else experimental), name


def test_importing_it_loads_nothing_heavy():
    found = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY & set(found) == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = darec.nothing


def test_the_version_is_written_in_one_place_and_everything_follows():
    packaged = read_configuration("pyproject.toml")["project"]["version"]
    printed = subprocess.check_output([Path(sys.executable).with_name("darec"), "--version"], text=True)
    tags = re.findall(r"image: darec-\w+:([\d.]+)", Path("docker-compose.yml").read_text())

    assert packaged == darec.__version__
    assert printed == f"darec {darec.__version__}\n"
    assert tags and set(tags) == {darec.__version__}
    assert f"## [{darec.__version__}]" in Path("CHANGELOG.md").read_text()


def test_the_page_of_the_python_api_names_what_exists():
    names = re.findall(r"^::: (\S+)", Path("docs/api.md").read_text(), re.MULTILINE)
    assert names and all(pydoc.locate(name) is not None for name in names)


def test_every_package_says_that_it_is_typed():
    packages = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert all(Path(package, "py.typed").is_file() for package in packages)
