"""Configuration of export and gate, and the shapes of a bundle's report, a gate decision and a release record."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.section import Section

ITEM_INDEX_FILE, SIMILAR_INDEX_FILE = "items.faiss", "similar.faiss"
USERS_FILE, ITEMS_FILE, SEEN_FILE, REPORT_FILE = "users.parquet", "items.parquet", "seen.parquet", "report.json"
BUNDLE_FILES = (ITEM_INDEX_FILE, SIMILAR_INDEX_FILE, USERS_FILE, ITEMS_FILE, SEEN_FILE, REPORT_FILE)

Metrics = dict[str, float | None]
"""Metric name, such as `recall@20`, to value; None where a metric came out as NaN."""


Share = Annotated[float, Field(ge=0, le=1)]


class ExportConfig(Section):
    """Which index the bundle carries. All kinds store the vectors unchanged, so scores are exact inner products."""

    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"
    """flat is exact, ivf searches some lists, hnsw walks a graph; auto is flat up to `flat_up_to` items, then ivf."""
    flat_up_to: int = Field(default=50_000, ge=0, le=2**31)
    """The largest catalogue that `auto` searches exhaustively."""
    lists: int = Field(default=0, ge=0, le=2**24)
    """IVF: number of lists; 0 takes the power of two nearest to 4 sqrt(items)."""
    links: int = Field(default=32, ge=2, le=512)
    """HNSW: links of a node and level."""
    build_effort: int = Field(default=200, ge=1, le=100_000)
    """HNSW: candidates kept while a node is inserted (efConstruction)."""
    effort: int = Field(default=0, ge=0, le=2**24)
    """Lists (ivf) or candidates (hnsw) looked at a query; 0: the least power of two that reaches `target_recall`."""
    target_recall: float = Field(default=0.98, gt=0, le=1)
    """The recall against exact search that `effort: 0` aims at."""
    recall_k: int = Field(default=20, ge=1, le=1_000)
    """How many neighbours the measured recall looks at."""
    recall_queries: int = Field(default=500, ge=1, le=1_000_000)
    """How many users (and items, for item-to-item) the recall is measured on, evenly spaced over the vocabulary."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the IVF clustering."""


class GateConfig(Section):
    """When a bundle may replace the current release."""

    tolerances: dict[str, Share] = Field(default={"recall@20": 0.05, "ndcg@20": 0.05})
    """Largest relative fall of a metric against the current release; 0.05 lets it lose a twentieth."""
    minimums: dict[str, float] = Field(default={"coverage@20": 0.01})
    """Smallest value of a metric, whatever the current release has; holds for the first release too."""
    index_recall: float = Field(default=0.95, ge=0, le=1)
    """Smallest measured recall of both indexes against exact search."""
    shrink: float = Field(default=0.2, ge=0, le=1)
    """Largest share of users, items or interactions that may vanish against the current release."""
    growth: float = Field(default=1.0, ge=0)
    """Largest share by which users, items or interactions may grow against the current release; 1 is twice the size."""
    sanity: bool = True
    """Whether NaN, norms, ids, and agreement of tables and indexes are checked. Leave it on."""


class Shape(BaseModel):
    """A record written as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VectorReport(Shape):
    """Facts about one side's vectors: users or items."""

    rows: int
    distinct_ids: int
    empty_ids: int
    not_finite: int
    """Rows that hold a NaN or an infinity."""
    zero: int
    """Rows of norm zero that have train interactions."""
    smallest_norm: float
    median_norm: float
    largest_norm: float


class IndexReport(Shape):
    """Facts about one index."""

    kind: Literal["flat", "ivf", "hnsw"]
    vectors: int
    effort: int
    """Lists (ivf) or candidates (hnsw) looked at a query; 0 for flat."""
    recall: float
    """Mean share of the exact top k that the index finds, unseen-item filter off."""
    bytes: int


class BundleReport(Shape):
    """`report.json` of a bundle: what the gate judges."""

    width: int
    interactions: int
    """Known user-item pairs of all splits."""
    seen_out_of_range: int
    """Known pairs that name a user or an item outside the vocabulary."""
    misplaced: int = 0
    """Users and items whose vector is not the trained one of their external id; older bundles were not asked."""
    users: VectorReport
    items: VectorReport
    item_index: IndexReport
    similar_index: IndexReport
    metrics: Metrics
    config: ExportConfig


class Check(Shape):
    """One question of the gate."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    message: str


class Decision(Shape):
    """The gate's answer: passed if every check is."""

    passed: bool
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """One line for people."""
        return "; ".join(check.message for check in self.failures) or f"all {len(self.checks)} checks passed"


class Event(Shape):
    """Something that happened to a release."""

    at: datetime
    what: Literal["published", "refused", "promoted", "rolled_back"]
    who: str
    why: str


class Release(Shape):
    """`releases/<id>.json`: a bundle that met the gate, and what became of it."""

    id: str = Field(pattern=r"^[\w-]+$")
    number: int = 0
    """Counts the store's releases: their order, whatever the clock said. Older records have none."""
    artifact: str = Field(pattern=r"^artifacts/\w+/\w+$")
    """The bundle's folder, relative to the store's root, and never outside it."""
    content: str
    """SHA-256 over the hashes of the bundle's files: two artifacts with the same bytes are one release."""
    state: Literal["published", "refused", "rolled_back"]
    previous: str | None
    """The release that was current when this one last became so: where `rollback` goes."""
    judged_against: str | None
    """The release that was current at the gate."""
    gate: GateConfig
    decision: Decision
    report: BundleReport
    """A copy of the bundle's, so that releases can be compared after the bundle itself is gone."""
    events: tuple[Event, ...]

    @property
    def created(self) -> datetime:
        """When it met the gate first."""
        return self.events[0].at
