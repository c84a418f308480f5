"""The typed report of each stage, which is part of its manifest. UI, HTML report and benchmarks read it.

Reports are read back from manifests of any version: fields that came later have defaults, and fields that are not
listed here are kept.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.release import BundleReport, Check, Metrics


class StageReport(BaseModel):
    """Base class of the reports."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about the input or the result of the stage, one sentence each, for tables, logs and the HTML
        report."""
        return ()


class Loss(BaseModel):
    """Rows that are lost for one reason."""

    rows: int
    example: str
    """An example of such a row, as text."""


class IngestReport(StageReport):
    """The cleaning of the raw data."""

    rows_in: int = 0
    rows_out: int = 0
    left_out: dict[str, int] = {}
    """Number of interactions that are left out, by reason."""
    users: int = 0
    items: int = 0
    density: float = 0.0
    """Interactions per user-item pair."""
    items_file: dict[str, int] = {}
    users_file: dict[str, int] = {}
    lost: dict[str, Loss] = {}
    """The reasons in `left_out` that are errors in the data and count against `data.max_bad_share`."""
    notes: tuple[str, ...] = ()
    """What was recognised in the data."""
    doubts: tuple[str, ...] = ()
    """What may be wrong with the data or the recipe, and the setting that resolves it."""
    copies: tuple[str, ...] = ()
    """The folders of the copies of remote sources that were read, in `<store>/sources`."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lost rows by reason, users and items of the files that no interaction mentions, and doubts."""
        lost = (
            f"{loss.rows:,} of {self.rows_in:,} rows are lost: {cause}, such as {loss.example}"
            for cause, loss in self.lost.items()
        )
        outcomes = {"items": "split.items: all keeps them in the release", "users": "they are not in the release"}
        unmentioned = (
            f"{count:,} of {counts['rows_in']:,} rows of the {side} file have no interactions: {outcomes[side]}"
            for side, counts in (("items", self.items_file), ("users", self.users_file))
            if (count := counts.get("without_interactions", 0))
        )
        return (*lost, *unmentioned, *self.doubts)


def _counted(counts: Mapping[str, int]) -> str:
    """The counts that are not 0 with their nouns, such as "1 user and 3 items"."""
    return " and ".join(f"{count:,} {noun}{'s' * (count > 1)}" for noun, count in counts.items() if count)


class SplitReport(StageReport):
    """How interactions were divided."""

    rows_in: int = 0
    rows_out: int = 0
    users: int = 0
    items: int = 0
    below_k_core: dict[str, int] = {}
    """Number of users and items that `split.k_core` leaves out."""
    test_cold_users: int = 0
    """Users of the test without any train interaction."""
    test_cold_items: int = 0
    """Items of the test without any train interaction."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What `split.k_core` leaves out, and the number of cold users and items of the test."""
        left_out = _counted({"user": self.below_k_core.get("users", 0), "item": self.below_k_core.get("items", 0)})
        cold = _counted({"user": self.test_cold_users, "item": self.test_cold_items})
        remarks = {
            f"fewer interactions than split.k_core, so not in the release: {left_out}": left_out,
            f"the test has {cold} without train interactions": cold,
        }
        return tuple(text for text, counted in remarks.items() if counted)


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
    """Number of distinct prompts whose answer was in the ledger."""
    generated: int = 0
    servers: dict[str, int] = {}
    """Number of answers of each LLM server, by its address. Empty for engines without servers."""
    retried: int = 0
    """Number of unusable answers that were requested a second time in this run."""
    asked_again: int = 0
    """Number of rows without a usable answer in earlier runs that were requested again."""
    recovered: int = 0
    """Number of these rows that have an answer now."""
    from_metadata: int = 0
    """Number of rows whose text comes from metadata because the LLM gave no usable answer."""
    failures: dict[str, int] = {}
    """Number of unusable answers in this run, by cause."""
    causes: dict[str, int] = {}
    """Number of rows from metadata, by cause."""
    only_ids: int = 0
    """Number of items of which only the id is known."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    output_tokens_per_second: float = 0.0
    seconds: float = 0.0
    samples: tuple[ProfileSample, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The number of texts that come from metadata, by cause; that most items have no text."""
        found = list[str]()
        if 2 * self.only_ids > self.rows:
            found.append(
                f"{self.only_ids:,} of {self.rows:,} items have no title, description or attributes, so the LLM is "
                "shown their ids only: set data.items, or train without text (train.alignment: [])"
            )
        if self.from_metadata:
            causes = ", ".join(f"{cause} {rows:,}" for cause, rows in sorted(self.causes.items()))
            why = f" ({causes})" if causes else ""
            found.append(f"{self.from_metadata:,} of {self.rows:,} texts come from metadata, not from the LLM{why}")
        return tuple(found)

    @property
    def tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


class EmbedReport(StageReport):
    """The requests to the text encoder."""

    rows: int = 0
    from_ledger: int = 0
    """Number of distinct texts whose vector was in the ledger."""
    generated: int = 0
    dimensions: int = 0
    seconds: float = 0.0
    samples: tuple[str, ...] = ()
    alike: Mapping[str, str] = {}
    """By side, how many of its texts equal another one, if it is more than half of them."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """The sides whose texts tell few rows apart."""
        return tuple(
            f"{counts} texts of {side} are the same as another one and hardly tell {side} apart: check the prompts"
            for side, counts in self.alike.items()
        )


class TrainReport(StageReport):
    """The outcome of training."""

    interactions: int = 0
    """Number of interactions in the training data; 0 in reports before version 0.2."""
    epochs: int = 0
    best_epoch: int = 0
    validation: Mapping[str, float | None] = {}
    training_seconds: float = 0.0
    batch_size: int = 0
    """Number of train interactions per step, which grows with the data; 0 for closed-form models and in reports of
    older versions."""
    choice: str | None = None
    """Name of the settings that the search chose; None without a search."""
    text_share: float | None = None
    """Spread of the text columns' scores relative to the trained ones' (`train.fuse`); None without text columns."""
    warm_start: str | None = None
    """Fingerprint of the released model whose embeddings training started from; None for random embeddings."""


def _recall(value: float) -> str:
    return "diverged" if value < 0 else f"= {value:.4f}"


class ChoiceReport(StageReport):
    """The training settings that were chosen."""

    name: str = ""
    kept: bool = False
    """Whether it is the choice of an earlier run."""
    why: str = ""
    """Why the search was made or repeated; empty for a choice that was kept."""
    rounds: tuple[Mapping[str, Any], ...] = ()
    """`epochs` of each candidate so far, and their validation `recalls` by name, of each round of the search."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was chosen, with the recall of every candidate in the last round that compared it."""
        if not self.rounds:
            return (f"{self.name} is the only candidate",) if self.name else ()

        compared, listed = set[str](), list[str]()
        for each in reversed(self.rounds):
            recalls = {name: value for name, value in each["recalls"].items() if name not in compared}
            best_first = sorted(recalls, key=lambda name: (name != self.name, -recalls[name]))
            values = ", ".join(f"{name} {_recall(recalls[name])}" for name in best_first)
            # Candidates of different rounds are not comparable: more epochs give a higher recall.
            epochs = each["epochs"]
            listed += [f"after {epochs} epoch{'s' * (epochs > 1)} {values}"] if values else []
            compared |= set(recalls)

        how = "kept from an earlier run" if self.kept else self.why
        return (f"chosen: {self.name} ({how}); validation Recall@20: {'; '.join(listed)}",)


class RerankReport(StageReport):
    """The reranker."""

    name: str = ""
    items: int = 0


class SignificanceReport(BaseModel):
    """Two-sided paired tests of one metric against the model without text."""

    difference: float
    t_test: float | None
    wilcoxon: float | None
    interval: tuple[float | None, float | None] | None = None
    """95% interval of the difference over users; reports before version 0.2 have none."""


class SliceReport(BaseModel):
    """Metrics of a group of users, or of held-out items, by their train interactions or by the items' age in days."""

    side: str
    low: int
    high: int
    users: int
    pairs: int
    metrics: Metrics
    others: Mapping[str, Metrics] = {}
    """Accuracy of the reference and of popularity in the same group; reports before version 0.2 have none."""
    gain: tuple[float, float] | None = None
    """95% interval over users of the recall at the largest cutoff minus that of the reference."""


class EvaluationReport(StageReport):
    """The metrics of the model. Each dictionary maps the name of a metric, such as `recall@20`, to its value."""

    protocol: str = "rlmrec"
    test: Metrics = {}
    validation: Metrics = {}
    popularity: Metrics = {}
    """Metrics of recommending the most popular items to every user."""
    reference: Metrics | None = None
    """Metrics of the model trained without text; None if the recipe uses no text."""
    before_reranking: Metrics | None = None
    """Test metrics of the same vectors without the reranker; None if there is no reranker."""
    significance: dict[str, SignificanceReport] = {}
    slices: tuple[SliceReport, ...] = ()
    candidates: dict[str, float] | None = None
    """Comparison of lists from the index with exact lists, for a sample of users; None if all items are scored."""


class ExportReport(StageReport):
    """Facts about the bundle."""

    width: int = 0
    interactions: int = 0

    def bundle(self) -> BundleReport:
        """The bundle's own report, which the gate judges."""
        return BundleReport.model_validate(self.model_dump())


class PublishReport(StageReport):
    """The decision of the gate."""

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


class VectorsReport(StageReport):
    """Whether the vector store serves the release in production."""

    state: str = ""
    reason: str = ""
    release: str = ""
    users: int = 0
    items: int = 0
    removed: tuple[str, ...] = ()
    """Earlier versions that were removed."""
