"""Expands a benchmark's recipe to its grid of training configurations."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from darec.common.errors import UserError
from darec.common.recipes import configure
from schemas.bench import BenchRecipe, Override, Overrides
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
        """The label for progress bars and errors."""
        return f"{self.data} {self.backbone} {self.alignment} seed {self.seed}"


def expand(recipe: BenchRecipe) -> list[Entry]:
    """All entries, seed by seed, so that an interrupted benchmark has complete tables of fewer seeds.

    Raises:
        UserError: overrides that give an invalid TrainConfig, or names that are not in the recipe.
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


def _with_sweeps(recipe: BenchRecipe) -> dict[str, tuple[Overrides, ...]]:
    """The layers of every alignment, including those of sweeps."""
    alignments: dict[str, tuple[Overrides, ...]] = {name: (layer,) for name, layer in recipe.alignments.items()}
    for sweep in recipe.sweeps:
        if sweep.of not in recipe.alignments:
            raise UserError(f"{sweep.of!r} is not an alignment", where=f"sweeps of {recipe.name}", hint="name one")
        for value in sweep.values:
            point = (recipe.alignments[sweep.of], {sweep.field: value})
            alignments[sweep_name(sweep.of, sweep.label, value)] = point
    return alignments


def _check_names(recipe: BenchRecipe, alignments: Collection[str]) -> None:
    known = {"data": recipe.data, "backbone": recipe.backbones, "alignment": alignments}
    for special in recipe.special:
        for field, names in known.items():
            name = getattr(special, field)
            if name is not None and name not in names:
                hint = f"use one of {', '.join(names)}"
                raise UserError(f"{field} {name!r} is not in the recipe", where=f"special of {recipe.name}", hint=hint)


def _config(
    recipe: BenchRecipe, alignments: Mapping[str, tuple[Overrides, ...]], names: tuple[str, str, str], seed: int
) -> TrainConfig:
    _, backbone, alignment = names
    layers = [recipe.base, recipe.backbones[backbone], *alignments[alignment]]
    layers += [special.set for special in recipe.special if _applies(special, names)]
    return configure(TrainConfig, *layers, {"seed": seed}, where=f"{recipe.name}: {' '.join(names)}")


def _applies(special: Override, names: tuple[str, str, str]) -> bool:
    wanted = (special.data, special.backbone, special.alignment)
    return all(want is None or want == name for want, name in zip(wanted, names, strict=True))
