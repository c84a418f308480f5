"""The typed report of every stage: what a manifest keeps of it, and what UI, HTML report and benchmarks read.

Reports are read back from manifests of any version: fields that came later have defaults, and fields that are not
listed here are kept.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from schemas.release import BundleReport, Check, Metrics


class StageReport(BaseModel):
    """What a stage says about its work."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What people should know of the stage's input or result, a sentence each: for tables, logs and the report."""
        return ()


class Loss(BaseModel):
    """Rows that one cause has cost."""

    rows: int
    example: str
    """A value of such a row, in words."""


class IngestReport(StageReport):
    """How the raw data became clean tables."""

    rows_in: int = 0
    rows_out: int = 0
    left_out: dict[str, int] = {}
    """How many interactions each problem cost."""
    users: int = 0
    items: int = 0
    density: float = 0.0
    """Interactions per user-item pair."""
    items_file: dict[str, int] = {}
    users_file: dict[str, int] = {}
    lost: dict[str, Loss] = {}
    """The causes of `left_out` that are faults of the data, all under the limit `data.max_bad_share`."""
    notes: tuple[str, ...] = ()
    """What was seen in the data and how it was read."""
    doubts: tuple[str, ...] = ()
    """What may be wrong with the data or the recipe, and the setting that settles it."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lost rows by cause, and doubts."""
        lost = (
            f"{loss.rows:,} of {self.rows_in:,} rows are lost: {cause}, such as {loss.example}"
            for cause, loss in self.lost.items()
        )
        return (*lost, *self.doubts)


class SplitReport(StageReport):
    """How interactions were divided."""

    rows_in: int = 0
    rows_out: int = 0
    users: int = 0
    items: int = 0
    test_cold_users: int = 0
    """Users of the test without any train interaction."""
    test_cold_items: int = 0
    """Items of the test without any train interaction."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """How many users and items the model cannot know."""
        if not self.test_cold_users and not self.test_cold_items:
            return ()
        cold = f"{self.test_cold_users:,} users and {self.test_cold_items:,} items"
        return (f"{cold} of the test have no train interaction",)


class GraphReport(StageReport):
    """The interaction graph."""

    edges: int = 0


class ProfileSample(BaseModel):
    """A profile and the prompt it was written from."""

    prompt: str
    profile: str


class ProfileReport(StageReport):
    """Requests to the LLM, and the outcome of its answers."""

    rows: int = 0
    from_ledger: int = 0
    """Distinct prompts whose profile was known already."""
    generated: int = 0
    retried: int = 0
    """Unusable answers that were asked for a second time in this run."""
    asked_again: int = 0
    """Rows without a usable answer in earlier runs that were asked again."""
    recovered: int = 0
    """Those of them that have an answer now."""
    from_metadata: int = 0
    """Rows whose text comes from metadata, as the LLM gave no usable answer."""
    failures: dict[str, int] = {}
    """Unusable answers of this run, by cause."""
    causes: dict[str, int] = {}
    """Rows from metadata, by cause."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    output_tokens_per_second: float = 0.0
    seconds: float = 0.0
    samples: tuple[ProfileSample, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """How many texts are no answer of the LLM, by cause."""
        if not self.from_metadata:
            return ()
        causes = ", ".join(f"{cause} {rows:,}" for cause, rows in sorted(self.causes.items()))
        why = f" ({causes})" if causes else ""
        return (f"{self.from_metadata:,} of {self.rows:,} texts come from metadata, not from the LLM{why}",)

    @property
    def tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


class EmbedReport(StageReport):
    """What the text encoder did."""

    rows: int = 0
    from_ledger: int = 0
    """Distinct texts whose vector was known already."""
    generated: int = 0
    dimensions: int = 0
    seconds: float = 0.0
    samples: tuple[str, ...] = ()


class TrainReport(StageReport):
    """How training went."""

    interactions: int = 0
    """Pairs that it was trained on; reports before version 0.2 do not say."""
    epochs: int = 0
    best_epoch: int = 0
    validation: Mapping[str, float | None] = {}
    training_seconds: float = 0.0
    batch_size: int = 0
    """Train interactions per step, which grow with the data; 0 for closed forms and in reports of older versions."""
    warm_start: str | None = None
    """Fingerprint of the released model that training began with; None for a start from random embeddings."""


class RerankReport(StageReport):
    """The reranker."""

    name: str = ""
    items: int = 0


class SignificanceReport(BaseModel):
    """Two-sided paired tests of one metric against the model without alignment."""

    difference: float
    t_test: float | None
    wilcoxon: float | None


class SliceReport(BaseModel):
    """Metrics of a group of users, or of held-out items, by their train interactions."""

    side: str
    low: int
    high: int
    users: int
    pairs: int
    metrics: Metrics


class EvaluationReport(StageReport):
    """How good the vectors are; every dictionary maps a metric such as `recall@20` to its value."""

    protocol: str = "rlmrec"
    test: Metrics = {}
    validation: Metrics = {}
    popularity: Metrics = {}
    """The reference that gives everybody the most popular items."""
    reference: Metrics | None = None
    """The model trained without alignment; None where the model uses no text."""
    before_reranking: Metrics | None = None
    """The same vectors on test without the reranker; None where there is no reranker."""
    significance: dict[str, SignificanceReport] = {}
    slices: tuple[SliceReport, ...] = ()
    candidates: dict[str, float] | None = None
    """Where lists come from an index: how far those of a sample of users are from exact ones."""


class ExportReport(StageReport):
    """Facts about the bundle."""

    width: int = 0
    interactions: int = 0

    def bundle(self) -> BundleReport:
        """The bundle's own report, which the gate judges."""
        return BundleReport.model_validate(self.model_dump())


class PublishReport(StageReport):
    """What the gate decided."""

    release: str = ""
    state: str = ""
    reason: str = ""
    summary: str = ""
    """The decision in one line, with the release's id."""
    checks: tuple[Check, ...] = ()


class ListsReport(StageReport):
    """Whether the lists of all users were written, and where."""

    state: str = ""
    reason: str = ""
    out: str = ""
