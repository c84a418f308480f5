"""The record of a run of the pipeline: one line of the store's `nights.jsonl`."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.release import Metrics

NIGHTS_FILE = "nights.jsonl"

Outcome = Literal["published", "refused", "unchanged", "partial", "failed"]
"""The outcome of a run. published: a new current release. refused: the gate refused the bundle. unchanged: the bundle
is the current release already. partial: the run ended before the gate, because of
`--until` or a limit of the run. failed: an error."""


class Night(BaseModel):
    """One run. Numbers are None if they were recorded by an earlier version that lacks them."""

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
    """Number of profiles requested from the LLM in this run."""
    from_metadata: int | None = None
    """Number of profiles that come from metadata because the LLM gave no usable answer."""
    seconds: dict[str, float] = {}
    """Seconds of each stage that did work."""

    @property
    def ended(self) -> datetime:
        """When the run ended, or when it started if its duration is unknown."""
        return self.started + timedelta(minutes=self.minutes or 0)

    @property
    def failed(self) -> bool:
        """Whether it ended in an error. A refused release is not an error."""
        return self.outcome == "failed"
