"""Adds every run, with or without Prefect, to the history in the store, and to the experiment tracker."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from darec.artifacts.store import Store
from darec.common import logs
from darec.common.errors import LimitError
from darec.text.budget import one_run
from pipelines.show import harmless
from pipelines.tracking import track_run
from schemas.night import Night, Outcome
from schemas.recipe import Recipe
from schemas.reports import EvaluationReport, ProfileReport, PublishReport
from stages.execute import Result

_logger = logging.getLogger(__name__)


@contextmanager
def recorded(store: Store, run: str, recipe: Recipe) -> Iterator[list[Result]]:
    """Adds the run in the block to the history. The block appends its results to the list that it gets.

    Args:
        store: the run's store.
        run: name of the run in logs.
        recipe: the recipe of the run, which may name a tracker.
    """
    results: list[Result] = []
    started, clock = datetime.now(UTC), time.monotonic()
    with logs.context(run=run), one_run() as spending:
        _logger.info("run started")
        error: BaseException | None = None
        try:
            yield results
        except BaseException as raised:
            error = raised
            raise
        finally:
            with harmless("the history of runs"):
                night = _night(started, (time.monotonic() - clock) / 60, results, spending.tokens, error)
                _record(store, night)
                track_run(recipe, run, night, results)


def _record(store: Store, night: Night) -> None:
    from darec.report.nights import record

    numbers = {"minutes": night.minutes, "tokens": night.tokens, "release": night.release, "why": night.why}
    _logger.info("run ended: %s", night.outcome, extra={"outcome": night.outcome, **numbers})
    record(store.root, night)


def _night(
    started: datetime, minutes: float, results: Sequence[Result], tokens: int, error: BaseException | None
) -> Night:
    made = [result for result in results if not result.cached]
    profiles = [result for result in results if isinstance(result.report, ProfileReport)]
    asked = [result.report for result in profiles if not result.cached]
    quality = next((result.report for result in results if isinstance(result.report, EvaluationReport)), None)
    decision = next((result for result in results if isinstance(result.report, PublishReport)), None)

    outcome: Outcome = "partial"
    why = f"run until {results[-1].stage}" if results else ""
    if isinstance(error, LimitError):
        why = str(error)
    elif isinstance(error, KeyboardInterrupt):
        outcome, why = "failed", "interrupted"
    elif error is not None:
        outcome, why = "failed", str(error) or type(error).__name__
    elif decision is not None:
        outcome, why = "unchanged" if decision.cached else decision.report.state, decision.report.reason

    return Night(
        started=started,
        minutes=round(minutes, 3),
        outcome=outcome,
        why=why,
        release=decision.report.release if decision else None,
        metrics=quality.test if quality else {},
        tokens=tokens,  # those of a stage that stopped or failed are paid as well
        generated=sum(report.generated for report in asked),
        from_metadata=sum(result.report.from_metadata for result in profiles),
        seconds={result.stage: result.seconds for result in made},
    )
