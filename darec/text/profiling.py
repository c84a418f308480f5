"""Profiles of a whole table of items or users: render, look up, generate, assemble."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from darec.artifacts.ledger import KEY, Ledger
from darec.common.errors import UserError
from darec.common.progress import Progress, Silent
from darec.text.answers import CAUSES
from darec.text.budget import CHARS_PER_TOKEN, characters
from darec.text.entities import values
from darec.text.generate import Generation, ProfileConfig, conversation_keys, profile_ledger, read_texts
from darec.text.prompts import Prompt, chat_prompt, with_less_data
from darec.text.protocol import Conversation, Engine
from schemas import columns as c
from schemas.semantic import LLMConfig

_SAMPLES = 5


class Forecast(NamedTuple):
    """The requests that a run would send to the LLM."""

    rows: int
    prompt_tokens: int
    output_tokens: int | None
    """Estimated output tokens; None if the ledger has no answer to this prompt."""
    about: bool = False
    """Whether the numbers are estimated from a sample of the rows."""


@dataclass(frozen=True)
class ProfileTask:
    """A table of entities, the variables of its prompt, and the text of a row if the LLM fails."""

    rows: pl.DataFrame
    variables: tuple[str, ...]
    from_metadata: pl.Expr
    llm: LLMConfig
    config: ProfileConfig
    ledger_root: Path
    sample_of: int | None = None
    """The number of rows of the whole table, if `rows` are an evenly spaced sample of it."""

    @property
    def ledger(self) -> Ledger:
        """The row ledger of all profiles."""
        return profile_ledger(self.ledger_root)

    @cached_property
    def prompt(self) -> Prompt:
        """The template. Raises UserError for a faulty one."""
        return chat_prompt(self.config.prompt, self.variables)

    def conversations(self) -> list[Conversation]:
        """The rendered prompt of each row."""
        return list(self._rendered())

    def conversation(self, row: int) -> Conversation:
        """The rendered prompt of one row."""
        return self.prompt.messages(self._values(row))

    def _values(self, row: int) -> dict[str, Any]:
        """The template variables of one row. One query per row would take longer than rendering the prompt."""
        return self._variables.row(row, named=True)

    @cached_property
    def _variables(self) -> pl.DataFrame:
        return self.rows.select(self.variables)

    def _rendered(self) -> Iterator[Conversation]:
        return (self.prompt.messages(row) for row in values(self.rows, self.variables))

    def keys(self) -> pl.Series:
        """The ledger key of each row; prompts are not kept in memory."""
        return conversation_keys(self._rendered(), self.llm, self.config)

    def shorter(self, row: int) -> tuple[Conversation, ...]:
        """Versions of a row's prompt with decreasing length, for prompts that do not fit the model."""
        return tuple(self.prompt.messages(part) for part in with_less_data(self._values(row)))

    def pending(self) -> int:
        """The number of prompts that a run would send to the LLM: new ones, and fallbacks that are due again."""
        return self.forecast().rows

    def forecast(self) -> Forecast:
        """The requests that a run would send to the LLM, with tokens estimated from the ledger's answers to this
        prompt.

        Without any, prompt tokens are estimated from the length, and output tokens are unknown. Of a sample of rows the
        numbers are scaled to the whole table.
        """
        sizes: list[int] = []
        keys = conversation_keys(_measured(self._rendered(), sizes), self.llm, self.config)
        new, again, held = Generation(self.llm, self.config, self.ledger).to_ask(keys)

        lengths = pl.Series("characters", sizes, pl.Int64)
        rows = pl.DataFrame([keys, lengths]).unique(KEY, keep="first")
        asked = rows.filter(pl.col(KEY).is_in(pl.concat([new, again[KEY]]).implode()))["characters"]
        known = rows.join(held.filter(pl.col("prompt_tokens") > 0), on=KEY)
        read, written, shown = (int(known[name].sum()) for name in ("prompt_tokens", "output_tokens", "characters"))
        per_character = read / shown if shown else 1 / CHARS_PER_TOKEN

        scale = self.sample_of / max(self.rows.height, 1) if self.sample_of else 1
        count = round((len(new) + again.height) * scale)
        prompt_tokens = round(int(asked.sum()) * per_character * scale)
        output_tokens = round(count * written / known.height) if shown else None
        return Forecast(count, prompt_tokens, output_tokens, self.sample_of is not None)

    def run(
        self, progress: Progress | None = None, engine: Engine | None = None
    ) -> tuple[pl.DataFrame, dict[str, Any]]:
        """The rows with `profile` and `source` (llm or metadata), and the report; no row is ever dropped.

        Raises:
            UserError: the LLM gave no usable answer for too many rows; all answers are kept.
        """
        keys = self.keys()
        generation = Generation(self.llm, self.config, self.ledger, progress or Silent())
        report = generation.run(self.conversation, keys, self.shorter, engine)

        texts = read_texts(self.ledger, keys)
        failed = pl.col("text") == ""
        profiles = pl.concat([self.rows, texts], how="horizontal").with_columns(
            pl.when(failed).then(self.from_metadata).otherwise("text").alias(c.PROFILE),
            pl.when(failed).then(pl.lit("metadata")).otherwise(pl.lit("llm")).alias(c.SOURCE),
        )
        fallbacks = profiles.filter(pl.col(c.SOURCE) == "metadata")
        causes = dict(fallbacks["cause"].value_counts(sort=True).iter_rows())
        if fallbacks.height > self.llm.max_fallback_share * profiles.height:
            raise _too_many(fallbacks.height, profiles.height, causes, generation.examples, self.llm)

        report |= {"from_metadata": fallbacks.height, "causes": causes, "samples": self._samples(profiles)}
        return profiles, report

    def _samples(self, profiles: pl.DataFrame) -> list[dict[str, str]]:
        step = max(1, profiles.height // _SAMPLES)
        numbers = list(range(0, profiles.height, step))[:_SAMPLES]
        return [{"prompt": self.conversation(n)[-1]["content"], "profile": profiles[c.PROFILE][n]} for n in numbers]


def fallbacks_in(profiles: pl.DataFrame) -> pl.DataFrame:
    """Ledger key and cause of the profiled rows whose text comes from metadata, once each."""
    fallbacks = profiles.filter(pl.col(c.SOURCE) == "metadata")
    return fallbacks.select(KEY, "cause").unique(KEY, keep="first", maintain_order=True)


def _measured(conversations: Iterable[Conversation], sizes: list[int]) -> Iterator[Conversation]:
    """The conversations; their numbers of characters are appended to `sizes`."""
    for messages in conversations:
        sizes.append(characters(messages))
        yield messages


def _too_many(failed: int, rows: int, causes: dict[str, int], examples: dict[str, str], llm: LLMConfig) -> UserError:
    """The error for too many rows without an answer: number of rows, meaning and an example of each cause."""
    reasons = []
    for cause, count in causes.items():
        example = f", for example {examples[cause]!r}" if cause in examples else ""
        reasons.append(f"{cause} {count:,} ({CAUSES.get(cause, 'unknown')}{example})")

    return UserError(
        f"the LLM gives no usable answer for {failed:,} of {rows:,} rows ({failed / rows:.0%}): {', '.join(reasons)}",
        where=llm.model,
        hint="fix the cause and run again: usable answers are kept, and the other rows are requested again, on at most "
        "llm.fallback_retries runs; or raise llm.max_fallback_share",
    )
