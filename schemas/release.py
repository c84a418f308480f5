"""Configuration of export and gate, and the shapes of a bundle's report, a gate decision and a release record."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.section import Section, added

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
    `flat_up_to` items, ivf above."""
    flat_up_to: int = Field(default=50_000, ge=0, le=2**31)
    """Maximum number of items for which `auto` uses exact search."""
    lists: int = Field(default=0, ge=0, le=2**24)
    """IVF: number of lists. 0 means the power of two nearest to 4 sqrt(items)."""
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
    rule. It stops a series of small decreases."""
    best_of_nights: int = added(14, ge=0, le=1000)
    """Number of past releases in production that `floor` compares with. `gc` keeps their bundles. Releases before one
    that was promoted by hand are not compared. 0 turns `floor` off."""
    minimums: dict[str, float] = Field(default={"coverage@20": 0.01})
    """Minimum value of a metric, independent of the current release. It also applies to the first release."""
    index_recall: float = Field(default=0.95, ge=0, le=1)
    """Minimum recall of both indexes against exact search."""
    shrink: float = Field(default=0.2, ge=0, le=1)
    """Maximum fraction of users, items or interactions that may be missing compared with the current release."""
    growth: float = Field(default=1.0, ge=0)
    """Maximum relative growth of users, items or interactions against the current release. 1 means twice the size."""
    max_fallback_share: float = added(0.25, ge=0, le=1)
    """Maximum fraction of the profiles of items, or of users, that were made from metadata because the LLM gave no
    usable answer."""
    sanity: bool = True
    """Whether to check for NaN, extreme norms, invalid ids, and tables that do not match the indexes. Leave it on."""


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

    trained_on: Literal["train", "all"] = "train"
    """The interactions behind the bundle's vectors. train: they are the vectors that `metrics` are about. all: they
    were trained again on train, val and test, and `metrics` are about the vectors that were trained on train."""
    cold_vectors: Literal["untrained", "text"] = "untrained"
    """Vectors of users and items without train interactions. text: predicted from their text vectors."""
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


class Difference(Shape):
    """One metric of two models on the same test interactions. None: not a number."""

    challenger: float | None
    other: float | None
    low: float | None = None
    """Lower end of the 95% confidence interval of the mean difference over users, challenger less other."""
    high: float | None = None
    """Upper end; both ends are None for a metric that is not a mean over users, such as coverage."""


class Comparison(Shape):
    """The new model, the challenger, compared with another model on the users and items that both know."""

    against: str
    """A release's id, or `reference`: the model of the same run without alignment."""
    users: int
    """Users that the metrics are means over."""
    pairs: int
    """Test interactions that they rest on."""
    test_users: int
    """Users with test interactions, whether or not the other model knows them."""
    test_pairs: int
    metrics: dict[str, Difference]
    """Those of the gate's tolerances that interactions alone tell."""


class TextReport(Shape):
    """Facts about the profiles of one side that a bundle was made from."""

    rows: int
    from_metadata: int
    """Profiles that were made from metadata since the LLM gave none."""
    empty: int
    """Profiles that are null or blank."""


class Evidence(Shape):
    """What the gate uses besides the bundle's own report."""

    current: Comparison | None = None
    """Against the release in production. None: there was none, or `why_not`."""
    why_not: str = ""
    """Why the release in production could not be measured on this test."""
    best: tuple[Comparison, ...] = ()
    """Against earlier releases, the latest first: what the floor looks at."""
    reference: Comparison | None = None
    """Comparison with the model without alignment, for information only."""
    texts: dict[str, TextReport] = {}
    """By profile stage; empty where no text takes part or the profiles are gone."""
    split: str | None = None
    """SHA-256 of the split settings: equal ones hold out the same interactions of a user."""


class Check(Shape):
    """One question of the gate."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    message: str
    """What was asked and answered, with the values, in a few words."""
    other: float | None = None
    """The other model's value, where `value` was compared with one."""


class Decision(Shape):
    """The gate's answer: passed if every check is."""

    passed: bool
    checks: tuple[Check, ...]
    rules: int = 1
    """Version of the gate's rules: what older rules refused is judged again."""

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """One line for people: every check that failed."""
        return "; ".join(check.message for check in self.failures) or f"all {len(self.checks)} checks passed"


class Event(Shape):
    """Something that happened to a release."""

    at: datetime
    what: Literal["published", "refused", "promoted", "rolled_back"]
    who: str
    why: str


class Release(Shape):
    """`releases/<id>.json`: a bundle that the gate checked, and its outcome."""

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
    """The last answer of the gate: a release that was once published stays so when it is refused later."""
    evidence: Evidence = Evidence()
    report: BundleReport
    """A copy of the bundle's, so that releases can be compared after the bundle itself is gone."""
    events: tuple[Event, ...]

    @property
    def created(self) -> datetime:
        """When it met the gate first."""
        return self.events[0].at

    @property
    def outcome(self) -> Literal["published", "refused", "rolled_back"]:
        """What happened last; other than `state`, a refusal of what had been published before."""
        return "refused" if self.events[-1].what == "refused" else self.state

    @property
    def summary(self) -> str:
        """What happened last in one line: `published X`, or `refused X: ` and the checks that failed."""
        if self.outcome != "refused":
            return f"{self.outcome.replace('_', ' ')} {self.id}"
        shown = [check.message for check in self.decision.failures[:3]]
        more = len(self.decision.failures) - len(shown)
        return f"refused {self.id}: {'; '.join(shown)}" + (f"; and {more} more" if more else "")
