"""The recipe, which configures a whole run, and its sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.consistency import contradictions
from schemas.data import DataConfig, GraphConfig, SplitConfig
from schemas.lists import ListsConfig
from schemas.release import ExportConfig, GateConfig
from schemas.rerank import RerankConfig
from schemas.rules import RulesConfig
from schemas.search import SearchConfig
from schemas.section import Section, not_hashed
from schemas.semantic import EmbedConfig, ItemProfileConfig, LLMConfig, UserProfileConfig
from schemas.tracking import TrackingConfig
from schemas.training import EvaluateConfig, TrainConfig
from schemas.vectors import VectorsConfig


def resolve_auto(values: Any) -> Any:
    """The values of a recipe with each weight `auto` of an objective replaced by its default, and a search."""
    train = values.get("train") if isinstance(values, Mapping) else None
    objectives = train.get("alignment") if isinstance(train, Mapping) else None
    if train is None or not isinstance(objectives, list | tuple) or not any(_is_auto(each) for each in objectives):
        return values
    # Without a weight, an objective has its default.
    written = [{k: v for k, v in each.items() if k != "weight"} if _is_auto(each) else each for each in objectives]
    return {**values, "train": {**train, "alignment": written}, "search": values.get("search") or {}}


def _is_auto(objective: Any) -> bool:
    return isinstance(objective, Mapping) and objective.get("weight") == "auto"


def _location(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and "://" not in value else value


StoreLocation = Annotated[Path | str, AfterValidator(_location)]
"""A folder as a path, or a URL as text."""


class RuntimeConfig(Section):
    """Where and how the pipeline runs. No field here can change a result."""

    store: StoreLocation = not_hashed(Path("data/store"))
    """Root folder of the artifact store, or `s3://bucket/folder` for one that several machines share. Its credentials
    and its endpoint come from the environment."""
    share_checkpoints: bool = not_hashed(False)
    """Also keep the checkpoints of training in a shared store, so that another machine can resume a killed run."""
    verify: Literal["sizes", "checksums"] = not_hashed("checksums")
    """How a cached artifact is verified before it is used: by the sizes of its files or by their SHA-256."""
    min_free_gb: float = not_hashed(1.0, ge=0, le=1_000_000)
    """Minimum free disk space, in GiB, for a run to start."""
    keep_releases: int = not_hashed(5, ge=1, le=1_000_000)
    """Number of releases that `gc` keeps in addition to the current one."""
    pools: dict[str, str] = not_hashed({})
    """Prefect work pools by stage, or by subflow (`semantic`, `collaborative`) for all of its stages. Such a stage runs
    on a machine with a worker of that pool, in runs with a Prefect server; the other stages run where the run is."""
    keep_artifacts: int = not_hashed(3, ge=1, le=1_000_000)
    """Number of newest artifacts per stage that `gc` keeps, with their inputs, whether or not a release needs them."""


class Recipe(Section):
    """Configuration of a whole run. Every section has a default: an empty file trains LightGCN with BPR and DaRec on
    MovieLens-100K. The default recipe, `configs/movielens-100k.yaml`, sets other training values."""

    data: DataConfig = Field(default_factory=DataConfig)
    split: SplitConfig = Field(default_factory=SplitConfig)
    llm: LLMConfig = Field(default_factory=LLMConfig)
    profile_items: ItemProfileConfig = Field(default_factory=ItemProfileConfig)
    profile_users: UserProfileConfig = Field(default_factory=UserProfileConfig)
    embed: EmbedConfig = Field(default_factory=EmbedConfig)
    graph: GraphConfig = Field(default_factory=GraphConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    search: SearchConfig | None = None
    """Selects the training settings on validation, before training. null: `train` is used unchanged. A weight of `auto`
    in `train.alignment` is the default weight with a `search`."""
    rerank: RerankConfig | None = None
    """Reorders the candidates found by the vectors, both in evaluation and in the release. null: candidates keep their
    order."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    rules: RulesConfig = Field(default_factory=RulesConfig)
    lists: ListsConfig | None = None
    """Writes the best items of all users to files at the end of a run. null: nothing is written."""
    vectors: VectorsConfig | None = None
    """Pushes the vectors of the release in production into a vector store at the end of a run. null: nothing is
    pushed."""
    tracking: TrackingConfig | None = None
    """Sends every run to an experiment tracker. null: nothing is sent."""
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, values: Any) -> Any:
        return resolve_auto(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(contradictions(self)):
            raise ValueError("; ".join(problems))
        return self
