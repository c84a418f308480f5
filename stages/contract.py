"""What a stage is: its name, what it reads, what is hashed into its key, and the function that does the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darec.common.errors import DarecError
from darec.common.progress import Progress, Silent
from schemas.recipe import Recipe


@dataclass(frozen=True)
class Input:
    """Some files of another stage's artifact. Only these are visible, and only these are in the key."""

    stage: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class StageContext:
    """All that a stage may touch."""

    recipe: Recipe
    inputs: Mapping[tuple[str, str], Path]
    """Absolute path of each declared (stage, file)."""
    out: Path
    """An empty folder; what is in it at the end is the artifact."""
    work: Path
    """Scratch space that a killed run of the same key leaves to the next: checkpoints."""
    store: Path
    """The store's root: the row ledgers are under `store / "ledger"`, the releases under `store / "releases"`."""
    progress: Progress = field(default_factory=Silent)

    def input(self, stage: str, file: str) -> Path:
        """The path of a declared input file. Raises DarecError for one that was not declared."""
        if (stage, file) not in self.inputs:
            raise DarecError(f"{stage}/{file} is not a declared input of this stage")
        return self.inputs[stage, file]

    @property
    def ledger(self) -> Path:
        """The root of the row ledgers."""
        return self.store / "ledger"


@dataclass(frozen=True)
class Outcome:
    """What a stage has to say about its work; it goes into the manifest, not into the artifact's content."""

    rows: int
    report: dict[str, Any] = field(default_factory=dict)


def _nothing(recipe: Recipe) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Its key is the hash of: name, version, `config`, `material`, and the content of its declared inputs.
    """

    name: str
    version: int
    """Raised by hand when the same inputs and configuration give another result than before."""
    outputs: tuple[str, ...]
    inputs: Callable[[Recipe], tuple[Input, ...]]
    config: Callable[[Recipe], Mapping[str, Any]]
    """The configuration that can change the result: sections or values; runtime fields are dropped from sections."""
    run: Callable[[StageContext], Outcome]
    material: Callable[[Recipe], Mapping[str, Any]] = _nothing
    """Whatever else is in the key: bytes of prompts, fingerprints of models, hashes of source files."""
    pending: Callable[[StageContext], int] | None = None
    """Rows that a run would have to make, given the ledger; None for stages that always do all rows."""
    settled: Callable[[StageContext], str | None] | None = None
    """Only for a stage that is an effect and not an artifact (publish): why there is nothing to do, or None."""
