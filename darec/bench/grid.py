"""From a benchmark's recipe to its grid of training configurations."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from darec.errors import UserError
from darec.recipes import explain
from schemas.bench import BenchRecipe, Overrides, Special
from schemas.training import TrainConfig


@dataclass(frozen=True)
class Entry:
    """One training run of the grid."""

    data: str
    backbone: str
    alignment: str
    seed: int
    config: TrainConfig

    @property
    def label(self) -> str:
        """For progress bars and errors."""
        return f"{self.data} {self.backbone} {self.alignment} seed {self.seed}"


def expand(recipe: BenchRecipe) -> list[Entry]:
    """All entries, seed by seed, so that an interrupted benchmark has whole tables of fewer seeds.

    Raises:
        UserError: overrides that make no TrainConfig, or names that are not in the recipe.
    """
    alignments = _with_sweeps(recipe)
    _check_names(recipe, alignments)
    return [
        Entry(data, backbone, alignment, seed, _config(recipe, alignments, (data, backbone, alignment), seed))
        for seed in recipe.seeds
        for data in recipe.data
        for backbone in recipe.backbones
        for alignment in alignments
    ]


def sweep_name(of: str, label: str, value: Any) -> str:
    """The name of one point of a sweep in tables."""
    return f"{of} {label}={value}"


def _with_sweeps(recipe: BenchRecipe) -> dict[str, Overrides]:
    alignments = dict(recipe.alignments)
    for sweep in recipe.sweeps:
        if sweep.of not in recipe.alignments:
            raise UserError(f"{sweep.of!r} is not an alignment", where=f"sweeps of {recipe.name}", mend="name one")
        for value in sweep.values:
            point = overlay(recipe.alignments[sweep.of], {sweep.field: value})
            alignments[sweep_name(sweep.of, sweep.label, value)] = point
    return alignments


def _check_names(recipe: BenchRecipe, alignments: Mapping[str, Overrides]) -> None:
    known = {"data": recipe.data, "backbone": recipe.backbones, "alignment": alignments}
    for special in recipe.special:
        for field, names in known.items():
            name = getattr(special, field)
            if name is not None and name not in names:
                mend = f"use one of {', '.join(names)}"
                raise UserError(f"{field} {name!r} is not in the recipe", where=f"special of {recipe.name}", mend=mend)


def _config(
    recipe: BenchRecipe, alignments: Mapping[str, Overrides], names: tuple[str, str, str], seed: int
) -> TrainConfig:
    _, backbone, alignment = names
    layers = [recipe.base, recipe.backbones[backbone], alignments[alignment]]
    layers += [special.set for special in recipe.special if _applies(special, names)]
    return train_config(*layers, {"seed": seed}, where=f"{recipe.name}: {' '.join(names)}")


def _applies(special: Special, names: tuple[str, str, str]) -> bool:
    wanted = (special.data, special.backbone, special.alignment)
    return all(want is None or want == name for want, name in zip(wanted, names, strict=True))


def train_config(*layers: Overrides, where: str) -> TrainConfig:
    """The default TrainConfig with `layers` laid over it in turn. Raises UserError if that is not valid."""
    values: Any = {}
    try:
        for layer in layers:
            values = overlay(values, layer)
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error, where, TrainConfig) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        mend = "a dotted path steps into what an override before it has set, as alignment.0.weight"
        raise UserError(f"an override does not fit ({error!r})", where=where, mend=mend) from error


def overlay(values: Any, overrides: Overrides) -> Any:
    """`values` with `overrides` laid over it; neither is changed."""
    result = copy.deepcopy(values)
    for path, value in overrides.items():
        *steps, last = path.split(".")
        place = result
        for step in steps:
            place = place[_field(place, step)] if isinstance(place, list) else place.setdefault(step, {})
        field = _field(place, last)
        there = place[field] if isinstance(place, list) else place.get(field)
        place[field] = overlay(there, value) if _merges(there, value) else copy.deepcopy(value)
    return result


def _field(place: Any, step: str) -> Any:
    return int(step) if isinstance(place, list) else step


def _merges(there: Any, value: Any) -> bool:
    """Both are tables, and not of two different kinds."""
    if not isinstance(there, dict) or not isinstance(value, dict):
        return False
    return value.get("name", there.get("name")) == there.get("name")
