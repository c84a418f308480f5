"""Configuration of export and gate, and the shapes of a bundle's report, a gate decision and a release record."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.section import Section, added, not_hashed

ITEM_INDEX_FILE, SIMILAR_INDEX_FILE = "items.faiss", "similar.faiss"
USERS_FILE, ITEMS_FILE, SEEN_FILE, REPORT_FILE = "users.parquet", "items.parquet", "seen.parquet", "report.json"
RERANKER_FILE, ATTRIBUTES_FILE = "reranker.safetensors", "attributes.parquet"
"""In a bundle only if the recipe has a reranker, or names attributes."""
BUNDLE_FILES = (ITEM_INDEX_FILE, SIMILAR_INDEX_FILE, USERS_FILE, ITEMS_FILE, SEEN_FILE, REPORT_FILE)

Metrics = dict[str, float | None]
"""Metric name, such as `recall@20`, to value; None where a metric came out as NaN."""


Share = Annotated[float, Field(ge=0, le=1)]


class ExportConfig(Section):
    """The FAISS index of the bundle. All kinds store the vectors unchanged, so scores are exact inner products."""

    index: Literal["auto", "flat", "ivf", "hnsw"] = "auto"
    """flat: exact search. ivf: searches some of the inverted lists. hnsw: searches a proximity graph. auto: flat up to
    `flat_up_to` items, otherwise ivf, unless more than a quarter of the lists is needed for `target_recall`."""
    flat_up_to: int = Field(default=50_000, ge=0, le=2**31)
    """Maximum number of items for which `auto` uses exact search."""
    lists: int = Field(default=0, ge=0, le=2**24)
    """IVF: number of lists. 0 means the power of two nearest to 4 sqrt(items)."""
    shard_items: int = not_hashed(10_000_000, ge=1, le=2**31)
    """IVF: maximum number of items whose index is built in memory. A larger index is built on disk, in shards of this
    number of items, and gives the same answers."""
    links: int = Field(default=32, ge=2, le=512)
    """HNSW: number of links per node and level."""
    build_effort: int = Field(default=200, ge=1, le=100_000)
    """HNSW: number of candidates kept while a node is inserted (efConstruction)."""
    effort: int = Field(default=0, ge=0, le=2**24)
    """Number of lists (ivf) or candidates (hnsw) searched per query. 0 means the smallest power of two that reaches
    `target_recall`."""
    target_recall: float = Field(default=0.98, gt=0, le=1)
    """Recall against exact search that `effort: 0` must reach."""
    recall_k: int = Field(default=20, ge=1, le=1_000)
    """Number of neighbours k for which the recall is measured."""
    recall_queries: int = Field(default=500, ge=1, le=1_000_000)
    """Number of users (and of items, for the item-to-item index) on which the recall is measured, evenly spaced over
    the vocabulary."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the IVF clustering."""
    attributes: tuple[str, ...] = added(())
    """Attributes of items that the release carries for rules, such as genres or brand. A value may be a list separated
    by `|` or commas."""


class GateConfig(Section):
    """Conditions under which a bundle replaces the current release."""

    tolerances: dict[str, Share] = Field(default={"recall@20": 0.05, "ndcg@20": 0.05})
    """Maximum relative decrease of a metric against the current release, such as 0.05 for 5%. Both models are measured
    on the test interactions of this run. A bundle is refused if the decrease is significantly larger: the 95%
    confidence interval of the mean difference over users lies entirely below the limit."""
    floor: float = added(0.1, ge=0, le=1)
    """Maximum relative decrease of the same metrics against the best of the last `best_of_nights` releases, by the same
    rule. This check catches a series of small decreases."""
    best_of_nights: int = added(14, ge=0, le=1000)
    """Number of past releases in production that `floor` compares with. `gc` keeps their bundles. Releases before one
    that was promoted by hand are not compared. 0 turns `floor` off."""
    reference: float | None = added(0.02, ge=0, le=1)
    """Maximum relative decrease of the metrics in `tolerances` against the model without text, which is trained in the
    same run, by the same rule. It also applies to the first release. Metrics that are not means over users, such as
    coverage, are not compared with it. null: texts may make the model worse."""
    minimums: dict[str, float] = Field(default={"coverage@20": 0.01})
    """Minimum value of a metric, independent of the current release. It also applies to the first release."""
    index_recall: float = Field(default=0.95, ge=0, le=1)
    """Minimum recall of both indexes against exact search."""
    shrink: float = Field(default=0.2, ge=0, le=1)
    """Maximum fraction of users, items or interactions that may be missing compared with the current release."""
    growth: float = Field(default=1.0, ge=0)
    """Maximum relative growth of users, items or interactions against the current release. 1 means twice the size."""
    max_fallback_share: float = added(0.25, ge=0, le=1)
    """Maximum fraction of the item profiles, or of the user profiles, that come from metadata because the LLM gave no
    usable answer."""
    sanity: bool = True
    """Whether to check for NaN, extreme norms, invalid ids, and tables that do not match the indexes. false is not
    recommended."""


class Shape(BaseModel):
    """Base class of the records that are written as JSON."""

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
    """Number of lists (ivf) or candidates (hnsw) searched per query; 0 for flat."""
    recall: float
    """Mean recall of the exact top k, without the filter for seen items."""
    bytes: int


class BundleReport(Shape):
    """`report.json` of a bundle, which the gate checks."""

    trained_on: Literal["train", "all"] = "train"
    """The interactions that the vectors of the bundle are trained on. `metrics` always describe vectors trained on
    train."""
    cold_vectors: Literal["untrained", "text"] = "untrained"
    """Vectors of users and items without train interactions. text: predicted from their text vectors."""
    width: int
    interactions: int
    """Known user-item pairs of all splits."""
    seen_out_of_range: int
    """Number of known pairs with a user or an item outside the vocabulary."""
    misplaced: int = 0
    """Number of users and items whose vector differs from the trained vector of their external id; 0 in older bundles,
    which do not check it."""
    users: VectorReport
    items: VectorReport
    item_index: IndexReport
    similar_index: IndexReport
    metrics: Metrics
    config: ExportConfig


class Difference(Shape):
    """One metric of two models on the same test interactions. None means NaN."""

    challenger: float | None
    other: float | None
    low: float | None = None
    """Lower end of the 95% confidence interval of the mean difference over users, challenger minus other."""
    high: float | None = None
    """Upper end. Both ends are None for a metric that is not a mean over users, such as coverage."""


class Comparison(Shape):
    """The new model, the challenger, compared with another model on the users and items that both know."""

    against: str
    """A release's id, or `reference`: the model of the same run without text."""
    users: int
    """Number of users over which the metrics are averaged."""
    pairs: int
    """Number of test interactions of these users."""
    test_users: int
    """Number of users with test interactions, including those that the other model does not know."""
    test_pairs: int
    metrics: dict[str, Difference]
    """The metrics in `gate.tolerances` that can be computed from interactions alone."""


class TextReport(Shape):
    """Facts about the profiles of one side that a bundle was made from."""

    rows: int
    from_metadata: int
    """Number of profiles that come from metadata because the LLM gave no usable answer."""
    empty: int
    """Number of profiles that are null or blank."""


class Evidence(Shape):
    """What the gate uses besides the bundle's own report."""

    current: Comparison | None = None
    """Comparison with the current release. None if there was none, or for the reason in `why_not`."""
    why_not: str = ""
    """Why the current release could not be measured on this test."""
    best: tuple[Comparison, ...] = ()
    """Comparisons with earlier releases, latest first, for `gate.floor`."""
    reference: Comparison | None = None
    """Comparison with the model without text, for `gate.reference`. None if the recipe uses no text or the model has
    been removed."""
    texts: dict[str, TextReport] = {}
    """By profile stage. Empty if the recipe uses no text or the profiles have been removed."""
    split: str | None = None
    """SHA-256 of the split settings. Runs with equal settings hold out the same interactions of each user."""


class Check(Shape):
    """One check of the gate."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    message: str
    """The condition and its result, with the values."""
    other: float | None = None
    """The value of the other model, if the check is a comparison."""


class Decision(Shape):
    """The decision of the gate, which passes if every check passes."""

    passed: bool
    checks: tuple[Check, ...]
    rules: int = 1
    """Version of the rules of the gate. A bundle that older rules refused is checked again."""

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """All failed checks in one line."""
        return "; ".join(check.message for check in self.failures) or f"all {len(self.checks)} checks passed"


class Event(Shape):
    """Something that happened to a release."""

    at: datetime
    what: Literal["published", "refused", "promoted", "rolled_back"]
    who: str
    why: str


class Release(Shape):
    """`releases/<id>.json`: the record of a bundle that the gate has checked."""

    id: str = Field(pattern=r"^[\w-]+$")
    number: int = 0
    """Consecutive number in the store, which gives the order of releases independently of the clock; 0 in older
    records."""
    artifact: str = Field(pattern=r"^artifacts/\w+/\w+$")
    """Folder of the bundle, relative to the root of the store and always inside it."""
    content: str
    """SHA-256 over the hashes of the bundle's files: two artifacts with the same bytes are one release."""
    state: Literal["published", "refused", "rolled_back"]
    previous: str | None
    """The release that was current before this one. `rollback` returns to it."""
    judged_against: str | None
    """The release that was current when the gate checked this one."""
    gate: GateConfig
    decision: Decision
    """The latest decision of the gate. A published release keeps its state if it is refused later."""
    evidence: Evidence = Evidence()
    report: BundleReport
    """A copy of the report of the bundle, so that releases can be compared after the bundle has been removed."""
    events: tuple[Event, ...]

    @property
    def created(self) -> datetime:
        """The time of the first check by the gate."""
        return self.events[0].at

    @property
    def outcome(self) -> Literal["published", "refused", "rolled_back"]:
        """The latest event. Unlike `state`, it can be the refusal of a release that was published before."""
        return "refused" if self.events[-1].what == "refused" else self.state

    @property
    def summary(self) -> str:
        """The latest event in one line: `published X`, or `refused X: ` and the checks that failed."""
        if self.outcome != "refused":
            return f"{self.outcome.replace('_', ' ')} {self.id}"
        shown = [check.message for check in self.decision.failures[:3]]
        more = len(self.decision.failures) - len(shown)
        return f"refused {self.id}: {'; '.join(shown)}" + (f"; and {more} more" if more else "")
