"""Estimates of tokens, minutes and money, from the costs of earlier runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from darec.artifacts.store import Store
from darec.text.budget import has_price, price
from schemas.recipe import Recipe
from schemas.reports import ProfileReport
from schemas.semantic import LLMConfig
from stages.contract import Pending, Stage


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a step; None for unknown values."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    minutes: float | None = None
    price: float | None = None
    """At the prices of the recipe; None without prices."""

    @property
    def tokens(self) -> int | None:
        """Prompt and output tokens together; None if either is not known."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return None
        return self.prompt_tokens + self.output_tokens


NOTHING = Cost(0, 0, 0.0, 0.0)
"""The cost of a hit."""
UNKNOWN = Cost()


def estimate(
    stage: Stage,
    pending: Pending | None,
    recipe: Recipe,
    store: Store,
    seconds: float | None,
    trial: ProfileReport | None = None,
) -> Cost:
    """Estimates the cost of a stale stage.

    Args:
        stage: the stage.
        pending: the rows that it would generate; None if it does not count rows.
        recipe: prices and the maximum length of an answer.
        store: the store with the newest run of the stage that generated rows, from which time and output tokens are
            scaled.
        seconds: duration of the last run of the stage.
        trial: the report of a few rows, which is used if the stage has never generated any.
    """
    if pending is None:
        return Cost(minutes=None if seconds is None else seconds / 60)

    report = last_generation(stage, store)
    if not issubclass(stage.report, ProfileReport):
        return Cost(minutes=_scaled(report, pending.rows) if report else None)

    before = report if isinstance(report, ProfileReport) else trial
    written = pending.output_tokens
    if written is None and before is not None:
        written = round(before.output_tokens / before.generated * pending.rows)
    if written is None:  # an upper bound
        written = pending.rows * getattr(recipe, stage.name).max_tokens
    return cost_of(recipe.llm, pending.prompt_tokens or 0, written, before)


def cost_of(llm: LLMConfig, prompt_tokens: int, output_tokens: int, before: ProfileReport | None) -> Cost:
    """The cost of these tokens, with the time per token of the run that `before` reports."""
    minutes = None
    if before is not None and before.tokens:
        minutes = (prompt_tokens + output_tokens) * before.seconds / before.tokens / 60
    return Cost(
        prompt_tokens, output_tokens, minutes, price(llm, prompt_tokens, output_tokens) if has_price(llm) else None
    )


def _scaled(report: object, rows: int) -> float | None:
    generated, seconds = getattr(report, "generated", 0), getattr(report, "seconds", 0.0)
    return seconds * rows / generated / 60 if generated else None


def last_generation(stage: Stage, store: Store) -> object | None:
    """The report of the newest run of the stage that generated rows."""
    for artifact in store.artifacts(stage.name):
        if artifact.damage() is not None:
            continue
        report = stage.report.model_validate(artifact.manifest.report)
        if getattr(report, "generated", 0):
            return report
    return None


def cost_lines(costs: Iterable[tuple[str, str | int, Cost]], llm: LLMConfig) -> list[str]:
    """Describes the cost of the LLM in words, with the limit of the run.

    Args:
        costs: name, rows (a number, or a text such as `about 1,000`) and cost of each stage that uses the LLM.
        llm: prices and limits.
    """
    asking = [(name, rows, cost) for name, rows, cost in costs if rows and cost.prompt_tokens is not None]
    lines = [
        f"{name}: {rows if isinstance(rows, str) else f'{rows:,}'} rows, {in_words(cost)}"
        for name, rows, cost in asking
    ]
    tokens = sum(cost.tokens or 0 for _, _, cost in asking)
    runs = [tokens / llm.max_tokens_per_run] if llm.max_tokens_per_run else []
    runs += [sum(cost.price or 0 for _, _, cost in asking) / llm.max_cost_per_run] if llm.max_cost_per_run else []
    if asking and runs and max(runs) > 1:
        lines.append(f"this exceeds the limit of one run: about {ceil(max(runs))} runs are needed")
    return lines


def in_words(cost: Cost) -> str:
    """Formats a cost for users. Unknown values are left out."""
    parts = [f"about {cost.prompt_tokens or 0:,} prompt and {cost.output_tokens or 0:,} output tokens"]
    if cost.minutes is not None:
        parts.append(f"{cost.minutes:.1f} minutes")
    if cost.price is not None:
        parts.append(f"price {cost.price:,.4g}")
    return ", ".join(parts)
