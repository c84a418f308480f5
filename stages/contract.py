"""The definition of a stage: its inputs, its outputs, what is hashed into its key, and its body."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from darec.artifacts.files import Content, File
from darec.artifacts.store import Artifact
from darec.common.errors import DarecError
from darec.common.progress import Progress, Silent
from schemas.recipe import Recipe
from schemas.reports import StageReport

if TYPE_CHECKING:
    import polars as pl

Report_co = TypeVar("Report_co", bound=StageReport, covariant=True)

Subflow = Literal["semantic", "collaborative"]


@dataclass(frozen=True)
class StageContext:
    """The inputs, folders and settings that a stage may use."""

    recipe: Recipe
    inputs: Mapping[tuple[str, str], Path]
    """Absolute path of each declared file, by stage and name."""
    out: Path
    """An empty folder. Its content at the end is the artifact."""
    work: Path
    """Scratch folder for checkpoints, which the next run of the same key finds after a kill."""
    store: Path
    """The store's root: the row ledgers are under `store / "ledger"`, the releases under `store / "releases"`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The sections of the recipe that the stage declared, as they are hashed into its key."""
    progress: Progress = field(default_factory=Silent)

    def has(self, file: File[Any]) -> bool:
        """Whether the file is a declared input."""
        return (file.stage, file.name) in self.inputs

    def path(self, file: File[Any]) -> Path:
        """The path of a declared input, which is downloaded if only a shared store has it.

        Raises DarecError for a file that was not declared.
        """
        if not self.has(file):
            raise DarecError(f"{file.stage}/{file.name} is not a declared input of this stage")
        path = self.inputs[file.stage, file.name]
        return path if path.exists() else Artifact(path.parent).file(path.name)

    def read(self, file: File[Content]) -> Content:
        """The content of a declared input."""
        return file.format.read(self.path(file))

    def scan(self, file: "File[pl.DataFrame]") -> "pl.LazyFrame":
        """The content of a declared table that may not fit in memory, as a query."""
        return file.scan(self.path(file))

    def read_of(self, file: "File[pl.DataFrame]", key: str, wanted: "pl.Series", *columns: str) -> "pl.DataFrame":
        """The rows of a declared table whose `key` is among the few that are wanted: `key` and `columns`, or all."""
        import polars as pl

        rows = self.scan(file).select(key, *columns) if columns else self.scan(file)
        return rows.filter(pl.col(key).is_in(wanted.implode())).collect(engine="streaming")

    def write(self, file: File[Content], content: Content) -> None:
        """Writes one of the stage's own files."""
        file.format.write(content, self.out / file.name)

    def sink(self, file: "File[pl.DataFrame]", query: "pl.LazyFrame") -> None:
        """Writes one of the stage's own tables while the query is computed, for a table that may not fit in memory."""
        file.sink(query, self.out / file.name)

    @property
    def ledger(self) -> Path:
        """The root of the row ledgers."""
        return self.store / "ledger"


@dataclass(frozen=True)
class Pending:
    """The rows that a run would generate."""

    rows: int
    prompt_tokens: int | None = None
    """Estimated prompt tokens; None for a stage without an LLM."""
    output_tokens: int | None = None
    """Estimated output tokens; None if there is no basis for an estimate."""
    about: bool = False
    """Whether `rows` is estimated from a sample of a large table."""


@dataclass(frozen=True)
class Outcome(Generic[Report_co]):
    """The outcome of a stage. It is written to the manifest and is not part of the content of the artifact."""

    rows: int
    report: Report_co


def _nothing(recipe: Recipe) -> Mapping[str, Any]:
    return {}


def _no_size(recipe: Recipe, upstream: Mapping[str, Artifact]) -> Mapping[str, Any]:
    return {}


def _up_to_date(recipe: Recipe, artifact: Artifact, ledger: Path) -> str | None:
    return None


def _no_news(recipe: Recipe) -> tuple[str, ...]:
    return ()


def _never(recipe: Recipe) -> bool:
    return False


@dataclass(frozen=True)
class Task(Generic[Report_co]):
    """A step of the pipeline: a stage, or an effect outside the artifacts."""

    name: str
    subflow: Subflow
    body: Any
    """The module with the body, by its dotted name (imported when it is needed), or an equivalent object.

    A stage's body has `run(context) -> Outcome`, and if `counts_rows` is set `pending(context) -> Pending` and
    `check(recipe)`. The body of an effect has `run(context) -> Outcome`, and `settled(context)`, which returns the
    report of the earlier effect if there is nothing to do, and None otherwise. An effect's report has a `state` and a
    `reason`.
    """
    report: type[Report_co]
    """The class of its report."""
    reads: Callable[[Recipe], tuple[File[Any], ...]]
    """The input files. Only these are visible, and only their content is in the key."""
    config: Callable[[Recipe], Mapping[str, Any]]
    """The sections of the recipe that can change the result; fields declared `not_hashed` are left out of the key."""

    def load(self) -> Any:
        """The body, imported now."""
        return import_module(self.body) if isinstance(self.body, str) else self.body


@dataclass(frozen=True)
class Stage(Task[Report_co]):
    """A step whose result is an artifact, which is identified by its key.

    The key is the hash of name, version, `config`, `fingerprint`, `by_size`, and the content of the files in `reads`.
    """

    version: int
    """Increased manually when the same inputs and configuration give another result than before."""
    writes: tuple[File[Any], ...]
    """The files of its artifact."""
    fingerprint: Callable[[Recipe], Mapping[str, Any]] = _nothing
    """Additional parts of the key: bytes of prompts, identities of models, hashes of source files."""
    by_size: Callable[[Recipe, Mapping[str, Artifact]], Mapping[str, Any]] = _no_size
    """Additional parts of the key: settings that follow from the number of rows of its inputs, by stage."""
    unread: Callable[[Recipe], tuple[str, ...]] = _no_news
    """The sources that a run would read before its key is known, one sentence each. Used by plans only."""
    outdated: Callable[[Recipe, Artifact, Path], str | None] = _up_to_date
    """Why an intact artifact of the key is rebuilt nevertheless, or None. Called with the root of the row ledgers."""
    counts_rows: bool = False
    """Whether the body has `pending`: how many rows a run would have to generate, given the row ledger; and `check`,
    which raises UserError for a faulty prompt of the recipe."""
    reads_release: Callable[[Recipe], bool] = _never
    """Whether it also reads the current release, which is not part of the key (a warm start). The report names it."""


@dataclass(frozen=True)
class Effect(Task[Report_co]):
    """A step that changes something outside the artifacts, such as publish. Its body decides whether there is work to
    do."""

    after: tuple[str, ...] = ()
    """Tasks that it follows without reading their files."""
    undone: str = "not gated yet"
    """The reason that a plan shows if there is work to do."""
