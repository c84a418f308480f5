"""Profiles of a whole table of items or users: render, look up, generate, assemble."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from darec.artifacts.ledger import Ledger
from darec.common.progress import Progress, Silent
from darec.text.entities import values
from darec.text.generate import LEDGER_ROWS, Generation, ProfileConfig, conversation_keys, read_texts
from darec.text.prompts import Prompt, chat_prompt, with_less_data
from darec.text.protocol import Conversation, Engine
from schemas import columns as c
from schemas.semantic import LLMConfig

_SAMPLES = 5


@dataclass(frozen=True)
class ProfileTask:
    """A table of entities, the variables its prompt may use, and the text of a row where the LLM fails."""

    rows: pl.DataFrame
    variables: tuple[str, ...]
    from_metadata: pl.Expr
    llm: LLMConfig
    config: ProfileConfig
    ledger_root: Path

    @property
    def ledger(self) -> Ledger:
        """The row ledger of all profiles."""
        return Ledger(self.ledger_root / "profiles.sqlite", LEDGER_ROWS)

    @cached_property
    def prompt(self) -> Prompt:
        """The template. Raises UserError for a faulty one."""
        return chat_prompt(self.config.prompt, self.variables)

    def conversations(self) -> list[Conversation]:
        """The rendered prompt of each row."""
        return [self.prompt.messages(row) for row in values(self.rows, self.variables)]

    def shorter(self, row: int) -> tuple[Conversation, ...]:
        """Versions of a row's prompt with ever less of its data, for a model that the whole prompt does not fit."""
        [whole] = values(self.rows[row], self.variables)
        return tuple(self.prompt.messages(part) for part in with_less_data(whole))

    def pending(self) -> int:
        """How many prompts the ledger does not know."""
        return len(self.ledger.missing(conversation_keys(self.conversations(), self.llm, self.config)))

    def run(
        self, progress: Progress | None = None, engine: Engine | None = None
    ) -> tuple[pl.DataFrame, dict[str, Any]]:
        """The rows with `profile` and `source` (llm or metadata), and the report; no row is ever dropped."""
        conversations = self.conversations()
        keys = conversation_keys(conversations, self.llm, self.config)
        generation = Generation(self.llm, self.config, self.ledger, progress or Silent())
        report = generation.run(conversations, keys, self.shorter, engine)
        texts = read_texts(self.ledger, keys)
        failed = pl.col("text") == ""
        profiles = pl.concat([self.rows, texts], how="horizontal").with_columns(
            pl.when(failed).then(self.from_metadata).otherwise("text").alias(c.PROFILE),
            pl.when(failed).then(pl.lit("metadata")).otherwise(pl.lit("llm")).alias(c.SOURCE),
        )
        return profiles, report | _summary(profiles, conversations)


def _summary(profiles: pl.DataFrame, conversations: list[Conversation]) -> dict[str, Any]:
    failed = profiles.filter(pl.col(c.SOURCE) == "metadata")
    causes = dict(failed["cause"].value_counts(sort=True).iter_rows())
    step = max(1, profiles.height // _SAMPLES)
    numbers = list(range(0, profiles.height, step))[:_SAMPLES]
    samples = [{"prompt": conversations[n][-1]["content"], "profile": profiles[c.PROFILE][n]} for n in numbers]
    return {"from_metadata": failed.height, "causes": causes, "samples": samples}
