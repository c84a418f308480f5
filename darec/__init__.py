"""Train, evaluate and serve recommenders that align collaborative and text representations.

`import darec` is fast: each name below is imported when it is first used.

Stable names keep their meaning and their parameters until the next major version:
    Recipe, load_recipe: the configuration of a whole run, and how it is read from a file.
    run: runs the pipeline that a recipe describes.
    Releases, Release: the releases of a store, and the record of one.
    Bundle: the files of a release, opened for queries.
    recommend, recommend_many, similar: queries against a bundle.
    Rules: which items may be recommended.
    DarecError, UserError: the errors that darec raises on purpose.
    __version__: the version.

Experimental names may change in any version:
    recommend_histories: lists for histories of users that a bundle does not know.
    train, Trained, TrainConfig: trains a model on pairs in memory.
    evaluate, EvaluateConfig: ranks and scores representations.
    Interactions, Pairs, Representations: the tensors that `train` and `evaluate` take.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darec.common.errors import DarecError, UserError
    from darec.common.interactions import Interactions, Pairs, Representations
    from darec.common.recipes import load_recipe
    from darec.common.version import __version__
    from darec.evaluation.report import report as evaluate
    from darec.serving.bundle import Bundle
    from darec.serving.recommend import recommend, recommend_histories, recommend_many, similar
    from darec.serving.releases import Releases
    from darec.training.run import train
    from darec.training.trainer import Trained
    from schemas.recipe import Recipe
    from schemas.release import Release
    from schemas.rules import RulesConfig as Rules
    from schemas.training import EvaluateConfig, TrainConfig
    from stages.walk import run

__all__ = [
    "Bundle",
    "DarecError",
    "EvaluateConfig",
    "Interactions",
    "Pairs",
    "Recipe",
    "Release",
    "Releases",
    "Representations",
    "Rules",
    "TrainConfig",
    "Trained",
    "UserError",
    "__version__",
    "evaluate",
    "load_recipe",
    "recommend",
    "recommend_histories",
    "recommend_many",
    "run",
    "similar",
    "train",
]

STABLE = (
    "Bundle", "DarecError", "Recipe", "Release", "Releases", "Rules", "UserError", "__version__", "load_recipe",
    "recommend", "recommend_many", "run", "similar",
)  # fmt: skip
"""The names of `__all__` that keep their meaning and parameters until the next major version."""

_PLACES = {
    "Bundle": "darec.serving.bundle",
    "DarecError": "darec.common.errors",
    "EvaluateConfig": "schemas.training",
    "Interactions": "darec.common.interactions",
    "Pairs": "darec.common.interactions",
    "Recipe": "schemas.recipe",
    "Release": "schemas.release",
    "Releases": "darec.serving.releases",
    "Rules": "schemas.rules:RulesConfig",
    "Representations": "darec.common.interactions",
    "TrainConfig": "schemas.training",
    "Trained": "darec.training.trainer",
    "UserError": "darec.common.errors",
    "__version__": "darec.common.version",
    "evaluate": "darec.evaluation.report:report",
    "load_recipe": "darec.common.recipes",
    "recommend": "darec.serving.recommend",
    "recommend_histories": "darec.serving.recommend",
    "recommend_many": "darec.serving.recommend",
    "run": "stages.walk",
    "similar": "darec.serving.recommend",
    "train": "darec.training.run",
}
"""The module of each public name, and after a colon the name it has there, where that is another."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _PLACES[name].partition(":")
    value = getattr(import_module(module), original or name)
    globals()[name] = value  # so that later uses do not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
