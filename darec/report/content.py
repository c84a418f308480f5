"""The content of a report as plain values, independent of its source and its layout."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from darec.common.charts import Chart, Scatter
from schemas.release import Check, Comparison


@dataclass(frozen=True)
class Absent:
    """A section that cannot be shown."""

    why: str


@dataclass(frozen=True)
class Headline:
    """The headline: the name of the release and its state."""

    name: str
    """The release's id; for a run without a release, its last stage and key."""
    state: str
    """published, refused, rolled back, or not gated."""
    current: bool
    """Whether it is the current release."""
    reason: str
    checks: tuple[Check, ...]
    """The checks of the gate."""
    judged_against: str | None
    """The release that was current when the gate checked this one."""
    made: datetime
    sizes: dict[str, int]
    """users, items, interactions."""
    is_refitted: bool = False
    """Whether the released vectors were trained on all interactions, unlike those that were measured."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of every model in the table; None where it is not a number or was not measured."""

    name: str
    values: tuple[float | None, ...]
    p_value: float | None
    """Wilcoxon's signed-rank test against the model without text; None without one."""


@dataclass(frozen=True)
class Metrics:
    """Test metrics; the first column is the model of this report."""

    models: tuple[str, ...]
    main: tuple[MetricRow, ...]
    """The largest cutoff."""
    others: tuple[MetricRow, ...]
    same_test: tuple[tuple[str, Comparison], ...] = ()
    """The gate's measurements on the test of this run, by the display name of the other model."""
    why_not: str = ""
    """Why the release in production was not measured."""
    choice: str = ""
    """The settings that a search chose, and why; empty without a search."""
    candidates: str = ""
    """The recall of the ranked lists against exact ones, if an index was used."""


@dataclass(frozen=True)
class SliceRow:
    """A group of users or items."""

    group: str
    users: int
    pairs: int
    metrics: dict[str, float | None]
    reference: float | None
    """The first of the metrics, of the model without text."""


@dataclass(frozen=True)
class TextGain:
    """Recall of a group of items, of the model and of the same model without text."""

    group: str
    pairs: int
    recalls: tuple[float | None, ...]
    """With text, without text, and of popularity."""
    interval: tuple[float, float] | None
    """95% interval of the difference to the model without text."""


@dataclass(frozen=True)
class TextGains:
    """What texts change, by how rare the items are."""

    metric: str
    rows: tuple[TextGain, ...]
    verdict: str
    catalogue: tuple[float | None, ...] = ()
    """Share of all items that are recommended: with text, without, and by popularity; empty if it was not computed."""


@dataclass(frozen=True)
class Slices:
    """Metrics by group, at the largest cutoff."""

    metrics: tuple[str, ...]
    users: tuple[SliceRow, ...]
    items: tuple[SliceRow, ...]
    ages: tuple[SliceRow, ...]
    """Items by days since their first train interaction; empty where interactions have no times."""


@dataclass(frozen=True)
class Sample:
    """A text that was generated or encoded."""

    text: str
    prompt: str | None
    """The prompt that it was generated from; None for an encoded text."""


@dataclass(frozen=True)
class Generation:
    """The results of one stage of the semantic subflow."""

    stage: str
    facts: tuple[tuple[str, Any], ...]
    """Label and value."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class TextRow:
    """The texts of one profile stage, as they were embedded."""

    stage: str
    rows: int
    """Number of measured rows, a sample of a large table."""
    measures: tuple[tuple[str, str], ...]
    """Label and value."""


@dataclass(frozen=True)
class Neighbours:
    """The items nearest to one item, by cosine: (title, cosine), best first."""

    title: str
    interactions: int
    before: tuple[tuple[str, float], ...] | Absent
    """By text vector."""
    after: tuple[tuple[str, float], ...]
    """By trained vector."""


@dataclass(frozen=True)
class Viewer:
    """The history of a user and the recommendations."""

    user: str
    profile: str
    interactions: int
    """In train."""
    history: tuple[tuple[str, datetime | None], ...]
    """The latest train items and when, latest first."""
    recommended: tuple[tuple[str, float, str], ...]
    """Title, score and reason, best first."""
    source: str
    """model or popularity."""


@dataclass(frozen=True)
class Panel(Scatter):
    """Items projected to the plane of their first two principal components, in the colours of their groups."""

    explained: float = field(kw_only=True)
    """Share of the variance in the plane."""


@dataclass(frozen=True)
class Map:
    """One panel per vector space; the same items and groups in each."""

    coloured_by: str
    groups: tuple[tuple[int, str], ...]
    """Number and name of each group that is not empty."""
    panels: tuple[Panel, ...]
    shown: int
    total: int


@dataclass(frozen=True)
class SetChange:
    """The change of a set between two runs."""

    name: str
    before: int
    after: int
    new: int
    gone: int


@dataclass(frozen=True)
class Drift:
    """The cleaned data compared with that of the previous release."""

    previous: str
    sets: tuple[SetChange, ...]
    shift: float
    """Total variation distance between the items' shares of all interactions: 0 the same, 1 disjoint."""
    rising: tuple[tuple[str, float, float], ...]
    """Title, share before, share after; largest gain first."""
    falling: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class DataNotes:
    """The reading and splitting of the raw data."""

    read: tuple[str, ...]
    """Remarks about the data and how it was read."""
    remarks: tuple[str, ...]
    """Lost rows, doubts, and users and items of the test that are not in train."""


@dataclass(frozen=True)
class Cost:
    """The cost of one stage when its artifact was made."""

    stage: str
    key: str
    made: datetime
    why: str
    rows: int
    seconds: float
    peak_memory_mb: float
    tokens: int | None
    """Prompt and output tokens of the LLM; None for a stage without one."""


@dataclass(frozen=True)
class Origin:
    """The information for reproducing the release."""

    config: str
    """The whole recipe as YAML."""
    changes: tuple[str, ...] | Absent
    """The differences from the previous release."""
    code: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Report:
    """All sections, in the order in which they are shown."""

    headline: Headline
    metrics: Metrics | Absent
    curves: tuple[Chart, ...] | Absent
    text_gains: TextGains | Absent
    slices: Slices | Absent
    generation: tuple[Generation, ...] | Absent
    texts: tuple[TextRow, ...] | Absent
    neighbours: tuple[Neighbours, ...] | Absent
    viewers: tuple[Viewer, ...] | Absent
    map: Map | Absent
    data: DataNotes | Absent
    drift: Drift | Absent
    trend: tuple[Chart, ...] | Absent
    costs: tuple[Cost, ...] | Absent
    origin: Origin | Absent
