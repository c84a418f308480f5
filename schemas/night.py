"""What is kept of every run of the pipeline: one line of the store's `nights.jsonl`."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.release import Metrics

NIGHTS_FILE = "nights.jsonl"

Outcome = Literal["published", "refused", "unchanged", "partial", "failed"]
"""The outcome of a run: a new release in production, one that the gate refused, none because production has it already,
none because the run was to stop before the gate, or an error."""


class Night(BaseModel):
    """One run. Numbers are None where a store of an earlier version kept none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    started: datetime
    minutes: float | None = None
    """From start to end, waiting included."""
    outcome: Outcome
    why: str = ""
    """The gate's reason, or the error."""
    release: str | None = None
    metrics: Metrics = {}
    """Test metrics of the run's model, such as `recall@20`."""
    tokens: int | None = None
    """Prompt and output tokens of the LLM in this run."""
    generated: int | None = None
    """Profiles that the LLM was asked for in this run."""
    from_metadata: int | None = None
    """Rows of the run's profiles whose text comes from metadata, as the LLM gave no usable answer."""
    seconds: dict[str, float] = {}
    """Seconds of each stage that did work."""

    @property
    def ended(self) -> datetime:
        """When it ended; when it began, where nobody kept how long it took."""
        return self.started + timedelta(minutes=self.minutes or 0)

    @property
    def failed(self) -> bool:
        """Whether it ended in an error. A refused release is none."""
        return self.outcome == "failed"
