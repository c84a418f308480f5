"""Configuration of benchmarks (`darec bench`) and hyper-parameter searches (`darec tune`)."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.section import Section
from schemas.training import EvaluateConfig

Overrides = dict[str, Any]
"""Overrides of a TrainConfig, or of a Recipe in a search: nested, or by dotted path (`alignment.0.weight: 0.3`).

A section whose `name` changes is replaced as a whole, and so is a list.
"""

Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$", max_length=100)]
"""Name of a benchmark, data set or method. It becomes part of file names."""

Scalar = bool | int | float | str

DataSources = dict[Name, Path]
"""Maps the name of a data set to a folder of benchmark data, or to a recipe (.yaml, .toml) whose split and vectors are
used."""


class Override(Section):
    """Overrides for some entries of the grid. A field that is null matches every entry."""

    data: str | None = None
    """Name of a data set."""
    backbone: str | None = None
    """Name of a backbone."""
    alignment: str | None = None
    """Name of an alignment."""
    set: Overrides
    """Overrides of TrainConfig, by dotted path."""


class Sweep(Section):
    """One alignment repeated with several values of one field."""

    label: str
    """Name of the field in plots, such as K or lambda."""
    of: str
    """Name of the alignment in `alignments`."""
    field: str
    """Dotted path in TrainConfig, such as `alignment.0.centres`."""
    values: tuple[Scalar, ...] = Field(min_length=1)
    """Values of the field, one run for each."""


class BenchRecipe(Section):
    """A grid of data sets, backbones, alignments and seeds. Each entry is a TrainConfig with overrides applied in
    turn."""

    name: Name
    """Name of the benchmark and of its folder of results."""
    data: DataSources
    """Data sets by name."""
    base: Overrides = Field(default={})
    """Overrides for every entry, applied first."""
    backbones: dict[str, Overrides] = Field(default={"lightgcn": {}})
    """Overrides of each backbone, by the name in tables."""
    alignments: dict[str, Overrides] = Field(default={"none": {"alignment": []}})
    """Overrides of each alignment, by the name in tables."""
    sweeps: tuple[Sweep, ...] = ()
    """Additional alignments, named `<of> <label>=<value>`."""
    special: tuple[Override, ...] = ()
    """Overrides for some entries, applied last and in order."""
    without_text: Literal["refuse", "leave out"] = "refuse"
    """What is done about entries that need text vectors on data that has none. refuse: an error. leave out: these
    entries are not part of the grid."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    """Seeds of training; each one is a separate run of every entry."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """How the representations of each run are evaluated."""
    baseline: str = "none"
    """The alignment that all others of the same backbone are compared with."""
    shown: Literal["test", "val"] = "test"
    """The part of the split that the accuracy plot shows. Use val to compare methods that are still to be chosen."""


class Choice(Section):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Scalar, ...] = Field(min_length=1)
    """The values to choose from."""


class IntRange(Section):
    """A range of integers."""

    kind: Literal["int"] = "int"
    low: int = Field(ge=-(2**53), le=2**53)
    """Lower bound, included."""
    high: int = Field(ge=-(2**53), le=2**53)
    """Upper bound, included."""
    step: int = Field(default=1, ge=1)
    """Distance between two values."""
    log: bool = False
    """Samples on a logarithmic scale."""

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("step must be 1 on a logarithmic scale")
        return self


class FloatRange(Section):
    """A range of real numbers."""

    kind: Literal["float"] = "float"
    low: float
    """Lower bound, included."""
    high: float
    """Upper bound, included."""
    log: bool = False
    """Samples on a logarithmic scale."""

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
    """Overrides and search space of one method, in addition to those of the whole search."""

    base: Overrides = Field(default={})
    """Overrides of the recipe of the method in every trial."""
    space: dict[str, SearchRange] = Field(default={})
    """Ranges by dotted path, in addition to those of the whole search."""


class TuneRecipe(Section):
    """A search for the recipe with the best validation Recall@20, for each of several methods.

    Paths are those of a recipe: `train.learning_rate`, `train.alignment.0.weight`, `profile_users.items`.
    """

    name: Name
    """Name of the search, and the prefix of its studies."""
    data: DataSources
    """Exactly one data set. With a folder, only `train` can be searched, starting from the defaults of a recipe. With a
    recipe, every section that training depends on can be searched, except `data` and `split`: all trials are compared
    on the same held-out pairs."""
    base: Overrides = Field(default={})
    """Overrides of that recipe in every trial."""
    space: dict[str, SearchRange] = Field(default={})
    """Search space: maps a dotted path to its range."""
    methods: dict[Name, Method] = Field(default={})
    """Methods to search separately. Each has its own study, NAME-METHOD. Without methods there is one study,
    NAME."""
    trials: int = Field(default=20, ge=1, le=1_000_000)
    """Total number of trials of each search, including pruned trials and those of earlier calls."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sampler. The seed of training is `train.seed`."""
    startup_trials: int = Field(default=5, ge=1, le=1_000_000)
    """Number of random trials at the start, which are never pruned."""
    prune_after: int = Field(default=2, ge=0, le=1_000_000)
    """Minimum number of evaluations before a trial can be pruned."""
