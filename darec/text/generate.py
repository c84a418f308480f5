"""Profiles for rows of prompts: from the ledger where known, from the LLM where not, from metadata where that fails."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.progress import Progress, Silent
from darec.text.answers import read_profile
from darec.text.identity import model_identity
from darec.text.models import resolve
from darec.text.protocol import Answer, Engine, Message, Request
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
_RETRY_TEMPERATURE = 0.7  # asking again the same way would give the same answer

ProfileConfig = ItemProfileConfig | UserProfileConfig
Conversation = tuple[Message, ...]


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

    def run(
        self, conversations: Sequence[Conversation], keys: pl.Series, engine: Engine | None = None
    ) -> dict[str, Any]:
        """Fills the ledger for `keys` and reports what that took. `engine` stands in for the configured one.

        Every chunk is in the ledger as soon as the engine has finished it. A bad answer is asked for once more, warmer;
        if that fails too, the row is kept as one whose text comes from metadata.
        """
        started = time.monotonic()
        missing = set(self.ledger.missing(keys, mend=True).to_list())
        first = {key: conversation for key, conversation in zip(keys, conversations, strict=True) if key in missing}
        self.progress.start("profiles", len(first))
        if first:
            with open_engine(self.llm) if engine is None else _borrowed(engine) as source:
                bad = self._ask(source, self._requests(first), last=False)
                self.tally["retried"] = len(bad)
                again = self._requests({key: first[key] for key in bad}, again=True)
                self._ask(source, again, last=True)
        return self._report(keys, len(first), time.monotonic() - started)

    def _requests(self, conversations: dict[str, Conversation], again: bool = False) -> list[Request]:
        temperature = max(self.llm.temperature, _RETRY_TEMPERATURE) if again else self.llm.temperature
        return [
            Request(key, messages, (int(key[:7], 16) + self.llm.seed + again) % 2**31, temperature)
            for key, messages in conversations.items()
        ]

    def _ask(self, engine: Engine, requests: Sequence[Request], last: bool) -> list[str]:
        """Asks, keeps what may be kept, and gives the keys of the others. The last time everything is kept."""
        bad: list[str] = []
        if not requests:
            return bad
        for answers in engine.generate(requests, profile_schema(self.config.max_chars), self.config.max_tokens):
            rows = [self._row(answer) for answer in answers]
            kept = [row for row in rows if last or not row["cause"] or row["cause"] == "too_long"]
            bad += [row[KEY] for row in rows if row not in kept]
            self.tally.update(f"failed_{row['cause']}" for row in rows if row["cause"])
            self.tally.update(row["cause"] for row in kept if row["cause"])
            self.ledger.append(pl.DataFrame(kept, schema=LEDGER_ROWS))
            self.progress.advance(len(kept))
        return bad

    def _row(self, answer: Answer) -> dict[str, Any]:
        text, cause = read_profile(answer, self.config.max_chars)
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


def _borrowed(engine: Engine) -> AbstractContextManager[Engine]:
    from contextlib import nullcontext

    return nullcontext(engine)


def read_texts(ledger: Ledger, keys: pl.Series) -> pl.DataFrame:
    """`text` and `cause` of each of `keys`, in their order."""
    rows = ledger.get(keys).select(KEY, "text", "cause")
    return keys.to_frame(KEY).join(rows, on=KEY, how="left", maintain_order="left")
