"""The source of a report: the artifacts of one release or run, and the tables that several sections use."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.artifacts import files
from darec.artifacts.files import Content, File
from darec.artifacts.lineage import latest_by_stage
from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError
from darec.report.naming import origin, report_name
from darec.serving.releases import Releases
from schemas import columns as c
from schemas.release import Release
from schemas.reports import EvaluationReport

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """The artifacts of one release or run, by stage, including those that gc removed."""

    store: Store
    artifacts: Mapping[str, Artifact]
    release: Release | None

    @classmethod
    def of_release(cls, store: Store, release: Release) -> "Source":
        """All artifacts in a release's lineage, as far as the remaining manifests show."""
        return cls(store, latest_by_stage(store, Artifact(store.root / release.artifact)), release)

    @classmethod
    def of_run(cls, store: Store, keys: Mapping[str, str]) -> "Source":
        """The artifacts of a run (stage to key), and their release if the gate has checked it."""
        return cls(store, *origin(store, keys))

    @property
    def name(self) -> str:
        """The release's id, else the last stage and its key. Safe as a file name."""
        return report_name(self.artifacts, self.release)

    @cached_property
    def previous(self) -> "Source | None":
        """The release that was current when the gate checked this one."""
        against = self.release.judged_against if self.release else None
        return self.of_release(self.store, Releases(self.store.root).get(against)) if against else None

    def artifact(self, stage: str) -> Artifact:
        """The stage's artifact. Raises DarecError if the run had no such stage, or gc removed it."""
        if stage not in self.artifacts:
            raise DarecError(f"this run had no stage {stage}")
        if not self.artifacts[stage].path.is_dir():
            raise DarecError(f"the artifact of {stage} was removed to free space")
        return self.artifacts[stage]

    def has(self, stage: str) -> bool:
        """Whether the stage's artifact exists."""
        return stage in self.artifacts and self.artifacts[stage].path.is_dir()

    def read(self, file: File[Content]) -> Content:
        """The content of a file. Raises DarecError as `artifact`."""
        return file.of(self.artifact(file.stage))

    def scan(self, file: File[pl.DataFrame]) -> pl.LazyFrame:
        """The content of a table that may not fit in memory, as a query. Raises DarecError as `artifact`."""
        return file.scan(self.artifact(file.stage).file(file.name))

    @cached_property
    def metrics(self) -> EvaluationReport:
        """The results of `evaluate`."""
        return EvaluationReport.model_validate(self.read(files.METRICS))

    @cached_property
    def train(self) -> pl.DataFrame:
        """The train interactions."""
        return self.read(files.TRAIN_PART)

    @cached_property
    def items(self) -> pl.DataFrame:
        """`title`, `attributes` and `train_count` of every item; row = item index."""
        vocabulary = self.read(files.ITEM_VOCABULARY).sort(c.ITEM_INDEX)
        described = self.read(files.ITEMS).select(c.ITEM, c.TITLE, c.ATTRIBUTES)
        counts = np.bincount(self.train[c.ITEM_INDEX].to_numpy(), minlength=vocabulary.height)
        return (
            vocabulary.join(described, on=c.ITEM, how="left", maintain_order="left")
            .with_columns(pl.coalesce(c.TITLE, c.ITEM).alias(c.TITLE), pl.Series(c.TRAIN_COUNT, counts))
            .select(c.ITEM, c.TITLE, c.ATTRIBUTES, c.TRAIN_COUNT)
        )


def rows_at_ranks(values: Floats | NDArray[np.int64], shares: tuple[float, ...]) -> list[int]:
    """Distinct rows at the given ranks (0 the smallest value, 1 the largest), in the given order; ties by row."""
    order = np.argsort(values, kind="stable")
    rows = [int(order[round(share * (len(order) - 1))]) for share in shares] if len(order) else []
    return list(dict.fromkeys(rows))
