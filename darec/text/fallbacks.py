"""Rows whose text comes from metadata because the LLM gave no usable answer: which of them are requested again, and
when.

Each row is requested again in at most `llm.fallback_retries` later runs, rows with the shortest prompts first, and at
most the share `llm.fallback_retry_share` of all rows per run. Between two requests of a row are at least
`llm.fallback_retry_hours`, so that a run that is repeated immediately is a hit. If a stage stops because too many rows
have no answer (`llm.max_fallback_share`), the next run requests all of them, because the cause has presumably been
fixed.

Within a run, a row whose first answer is unusable is requested a second time. If the run ends between the two requests,
a later run sends only the second one: for a new row the next run, without these limits, because its first run is
incomplete.

The row ledger records how often and when such a row was last requested; rows of version 0.1 count as requested once,
long ago. An artifact lists its fallbacks in a separate file, so that no prompt has to be rendered to determine whether
one of them is due. If so the artifact is outdated, and its stage runs again under the same key.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from darec.artifacts.files import File
from darec.artifacts.store import Artifact
from darec.common.errors import DarecError
from darec.common.warnings import warn_once
from schemas.reports import ProfileReport
from schemas.semantic import LLMConfig

if TYPE_CHECKING:
    import polars as pl


def due(rows: "pl.DataFrame", total: int, llm: LLMConfig, now: float, urgent: bool = False) -> "pl.DataFrame":
    """The rows to request again now: those with the fewest requests first, and of these the cheapest.

    Args:
        rows: the ledger rows of the stage's keys (`schemas.tables.PROFILE_ROWS`).
        total: number of keys of the stage.
        llm: the limits.
        now: seconds since 1970.
        urgent: whether these are so many that the stage stops (`llm.max_fallback_share`); then all of them are due.
    """
    import polars as pl

    attempts, asked = pl.col("attempts").fill_null(1).abs(), pl.col("asked").fill_null(0)
    recent = (asked - now).abs() < 3600 * llm.fallback_retry_hours  # a clock set back leaves requests in the future
    incomplete = attempts == 0
    left = rows.filter(pl.col("cause") != "", attempts <= llm.fallback_retries)
    cheapest = left.sort(attempts, "prompt_tokens", "key")
    if urgent:
        return cheapest

    allowed = max(1, int(llm.fallback_retry_share * total)) - rows.filter(recent | incomplete).height
    others = cheapest.filter(~recent, ~incomplete).head(max(0, allowed))
    return pl.concat([cheapest.filter(incomplete), others])


def due_again(llm: LLMConfig, artifact: Artifact, fallbacks: "File[pl.DataFrame]", ledger: Path) -> str | None:
    """Why the finished artifact of a profile stage is rebuilt, or None.

    Args:
        llm: the limits.
        artifact: the artifact.
        fallbacks: the file that lists its rows without an answer of the LLM.
        ledger: the root of the row ledgers.
    """
    report = ProfileReport.model_validate(artifact.manifest.report)
    if not report.from_metadata or not llm.fallback_retries:
        return None
    if fallbacks.name not in artifact.manifest.files:
        return f"{report.from_metadata:,} rows without an answer of the LLM are due again"

    from darec.text.generate import profile_ledger

    try:
        rows = profile_ledger(ledger).get(fallbacks.of(artifact)["key"])
    except DarecError as error:  # the hit remains valid
        warn_once(f"{artifact.stage}: the rows that are due again cannot be determined: {error}")
        return None

    answered = rows.filter(rows["cause"] == "").height
    count = answered + due(rows, report.rows, llm, time.time()).height
    return f"{count:,} rows without an answer of the LLM are due again" if count else None
