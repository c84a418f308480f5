"""Configuration of benchmarks (`darec bench`) and hyper-parameter searches (`darec tune`)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.section import Section
from schemas.training import EvaluateConfig

Overrides = dict[str, Any]
"""Values laid over a TrainConfig, or in a search over a Recipe: nested, or by dotted path (`alignment.0.weight: 0.3`).

A section whose `name` changes is replaced as a whole; so is a list.
"""

Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$", max_length=100)]
"""Of a benchmark, data set or method: a part of file names."""

Scalar = bool | int | float | str

DataSources = dict[Name, Path]
"""Name of a data set -> a folder of benchmark data, or a recipe (.yaml, .toml) whose split and vectors are used."""


class Override(Section):
    """Overrides for some entries of the grid only; a field left out means all."""

    data: str | None = None
    backbone: str | None = None
    alignment: str | None = None
    set: Overrides


class Sweep(Section):
    """One alignment again and again, with one field at each of several values."""

    label: str
    """What plots call the field: K, lambda."""
    of: str
    """The alignment, by its name in `alignments`."""
    field: str
    """Dotted path in TrainConfig, as `alignment.0.centres`."""
    values: tuple[Scalar, ...] = Field(min_length=1)


class BenchRecipe(Section):
    """Data sets x backbones x alignments x seeds; each entry is a TrainConfig with overrides laid over it in turn."""

    name: Name
    data: DataSources
    base: Overrides = Field(default={})
    """Laid over the defaults of every entry."""
    backbones: dict[str, Overrides] = Field(default={"lightgcn": {}})
    alignments: dict[str, Overrides] = Field(default={"none": {"alignment": []}})
    sweeps: tuple[Sweep, ...] = ()
    """Further alignments, named `<of> <label>=<value>`."""
    special: tuple[Override, ...] = ()
    """Laid over last, in their order."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    baseline: str = "none"
    """The alignment that the others of the same backbone are compared with."""
    shown: Literal["test", "val"] = "test"
    """The part that the accuracy plot shows: val where the methods are choices that are still to be made."""


class Choice(Section):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Scalar, ...] = Field(min_length=1)


class IntRange(Section):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["int"] = "int"
    low: int = Field(ge=-(2**53), le=2**53)
    high: int = Field(ge=-(2**53), le=2**53)
    step: int = Field(default=1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("step must be 1 on a logarithmic scale")
        return self


class FloatRange(Section):
    """A number from `low` to `high`, on a logarithmic scale if `log`."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        _check_range(self.low, self.high, self.log)
        return self


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low {low:g} is above high {high:g}")
    if log and low <= 0:
        raise ValueError(f"low {low:g} must be above 0 on a logarithmic scale")


SearchRange = Annotated[Choice | IntRange | FloatRange, Field(discriminator="kind")]


class Method(Section):
    """What the search for one method has besides what all have."""

    base: Overrides = Field(default={})
    space: dict[str, SearchRange] = Field(default={})


class TuneRecipe(Section):
    """A search for the recipe with the best validation Recall@20, for each of some methods.

    Its paths are those of a whole-run recipe: `train.learning_rate`, `train.alignment.0.weight`, `profile_users.items`.
    """

    name: Name
    data: DataSources
    """Exactly one data set. A folder: only `train` is searched, over a recipe's defaults. A whole-run recipe: it is
    searched as it is, with every section that training depends on but `data` and `split`, for trials are compared on
    the same held-out pairs."""
    base: Overrides = Field(default={})
    """Laid over that recipe in every trial."""
    space: dict[str, SearchRange] = Field(default={})
    """Dotted path -> where to search."""
    methods: dict[Name, Method] = Field(default={})
    """Each has a search and a study of its own, NAME-METHOD. Without any there is one, NAME."""
    trials: int = Field(default=20, ge=1, le=1_000_000)
    """Trials of each search in all, pruned ones included, however often it is continued."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the sampler; the training seed is `train.seed`."""
    startup_trials: int = Field(default=5, ge=1, le=1_000_000)
    """So many trials are random and never pruned."""
    prune_after: int = Field(default=2, ge=0, le=1_000_000)
    """A trial is not pruned before so many evaluations."""
