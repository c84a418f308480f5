"""Profiles for rows of prompts: from the ledger where known, from the LLM where not, from metadata where that fails."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.progress import Progress, Silent
from darec.text.answers import CAUSES, printable, read_profile
from darec.text.identity import model_identity
from darec.text.models import resolve
from darec.text.protocol import Answer, Conversation, Engine, Request
from schemas.semantic import ItemProfileConfig, LLMConfig, UserProfileConfig, profile_schema
from schemas.tables import TableSchema

LEDGER_ROWS = TableSchema(
    {
        KEY: pl.String(),
        "text": pl.String(),  # empty where the text comes from metadata
        "cause": pl.String(),  # why, else empty
        "prompt_tokens": pl.Int32(),
        "output_tokens": pl.Int32(),
    }
)
_RETRY_TEMPERATURE = 0.7
_EXAMPLE_CHARS = 120

ProfileConfig = ItemProfileConfig | UserProfileConfig


def conversation_keys(conversations: Iterable[Conversation], llm: LLMConfig, config: ProfileConfig) -> pl.Series:
    """The ledger key of each conversation: the rendered prompt, the model, the sampling and the output schema."""
    sampling = {"temperature": llm.temperature, "seed": llm.seed, "dtype": llm.dtype, "max_tokens": config.max_tokens}
    sampling |= {"max_model_len": llm.max_model_len, "frequency_penalty": llm.frequency_penalty}
    common = json.dumps([model_identity(llm), sampling, profile_schema(config.max_chars)], sort_keys=True).encode()
    rendered = (json.dumps(conversation, ensure_ascii=False, sort_keys=True) for conversation in conversations)
    return pl.Series(KEY, [row_key(common, text.encode()) for text in rendered], dtype=pl.String)


def open_engine(config: LLMConfig) -> AbstractContextManager[Engine]:
    """The configured engine; leaving the context gives its memory back."""
    if config.engine == "server":
        from darec.text.server import ServerEngine

        return closing(ServerEngine(config))
    from darec.text.engine import EngineSettings, OfflineEngine

    return closing(OfflineEngine(EngineSettings.of(config, resolve(config.model, config.revision))))


@dataclass
class Generation:
    """One pass over the rows that the ledger lacks."""

    llm: LLMConfig
    config: ProfileConfig
    ledger: Ledger
    progress: Progress = field(default_factory=Silent)
    tally: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The beginning of an unusable answer, or of what the server said, for each cause."""

    def run(
        self,
        conversations: Sequence[Conversation],
        keys: pl.Series,
        shorter: Callable[[int], tuple[Conversation, ...]] = lambda row: (),
        engine: Engine | None = None,
    ) -> dict[str, Any]:
        """Fills the ledger for `keys` and reports what that took.

        Every usable answer is in the ledger as soon as the engine gives it. A bad one is asked for again; if that fails
        too, the row is kept as one whose text comes from metadata.

        Args:
            conversations: the prompt of each row.
            keys: their ledger keys.
            shorter: versions of a row's prompt with less data, longest first.
            engine: stands in for the configured one.
        """
        started = time.monotonic()
        missing = set(self.ledger.missing(keys, repair=True).to_list())
        rows: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key in missing:
                rows.setdefault(key, row)
        self.progress.start("profiles", len(rows))
        if rows:
            prompts = {key: conversations[row] for key, row in rows.items()}
            with open_engine(self.llm) if engine is None else nullcontext(engine) as source:
                self._generate(source, prompts, lambda key: shorter(rows[key]))
        return self._report(keys, len(rows), time.monotonic() - started)

    def _generate(
        self,
        engine: Engine,
        prompts: dict[str, Conversation],
        shorter: Callable[[str], tuple[Conversation, ...]],
    ) -> None:
        bad = self._ask(engine, [self._request(key, prompt) for key, prompt in prompts.items()], final=())

        # What does not fit the model is asked with less data. It keeps its key, for which no plan has to tokenise.
        cut = {key: shorter(key) for key, cause in bad.items() if cause == "too_long"}
        again = [self._request(key, prompts[key], versions) for key, versions in cut.items()]
        bad = {key: cause for key, cause in bad.items() if key not in cut}
        bad |= self._ask(engine, again, final=("too_long",))

        # At the same temperature a model would give the same answer.
        self.tally["retried"] = len(bad)
        again = [self._request(key, prompts[key], cut.get(key, ()), warmer=True) for key in bad]
        self._ask(engine, again, final=CAUSES)

    def _request(
        self, key: str, messages: Conversation, shorter: tuple[Conversation, ...] = (), warmer: bool = False
    ) -> Request:
        temperature = max(self.llm.temperature, _RETRY_TEMPERATURE) if warmer else self.llm.temperature
        return Request(key, messages, (int(key[:7], 16) + self.llm.seed + warmer) % 2**31, temperature, shorter)

    def _ask(self, engine: Engine, requests: Sequence[Request], final: Collection[str]) -> dict[str, str]:
        """Asks, and keeps the usable rows and those that failed for a `final` cause. Gives key and cause of the others.

        A row that cannot be read is raised when the others that came with it are kept.
        """
        bad: dict[str, str] = {}
        if not requests:
            return bad
        schema = profile_schema(self.config.max_chars)
        for answers in engine.generate(requests, schema, self.config.max_tokens):
            rows, failure = [], None
            for answer in answers:
                try:
                    rows.append(self._row(answer))
                except Exception as error:
                    failure = error
            kept = [row for row in rows if not row["cause"] or row["cause"] in final]
            bad |= {row[KEY]: row["cause"] for row in rows if row["cause"] and row["cause"] not in final}
            self.ledger.append(pl.DataFrame(kept, schema=dict(LEDGER_ROWS)))
            self.tally.update(f"failed_{row['cause']}" for row in rows if row["cause"])
            self.progress.advance(len(kept))
            if failure is not None:
                raise failure
        return bad

    def _row(self, answer: Answer) -> dict[str, Any]:
        text, cause = read_profile(answer, self.config.max_chars)
        if cause and answer.text.strip():
            self.examples.setdefault(cause, printable(answer.text, _EXAMPLE_CHARS))
        self.tally["prompt_tokens"] += answer.prompt_tokens
        self.tally["output_tokens"] += answer.output_tokens
        tokens = {"prompt_tokens": answer.prompt_tokens, "output_tokens": answer.output_tokens}
        return {KEY: answer.key, "text": text or "", "cause": cause, **tokens}

    def _report(self, keys: pl.Series, generated: int, seconds: float) -> dict[str, Any]:
        causes = {name: self.tally[name] for name in sorted(self.tally) if self.tally[name]}
        return {
            "rows": len(keys),
            "from_ledger": keys.n_unique() - generated,
            "generated": generated,
            "retried": self.tally["retried"],
            "failures": {name.removeprefix("failed_"): n for name, n in causes.items() if name.startswith("failed_")},
            "prompt_tokens": self.tally["prompt_tokens"],
            "output_tokens": self.tally["output_tokens"],
            "output_tokens_per_second": round(self.tally["output_tokens"] / seconds, 1) if generated else 0.0,
            "seconds": round(seconds, 2),
        }


def read_texts(ledger: Ledger, keys: pl.Series) -> pl.DataFrame:
    """`text` and `cause` of each of `keys`, in their order."""
    return ledger.rows(keys, ["text", "cause"])
