"""Profiles for rows of prompts: from the ledger if known, otherwise from the LLM, and from metadata if that fails."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.errors import DarecError
from darec.common.progress import Progress, Silent
from darec.common.registry import Registry
from darec.common.warnings import warn_once
from darec.text.answers import CAUSES, NEVER_SAMPLED, UNPAID, printable, read_profile
from darec.text.budget import Budget
from darec.text.fallbacks import due
from darec.text.identity import model_identity
from darec.text.models import resolve
from darec.text.protocol import Answer, Conversation, Engine, LazyRequests, Request
from schemas.semantic import ItemProfileConfig, LLMConfig, UserProfileConfig, profile_schema
from schemas.tables import PROFILE_ROWS

_RETRY_TEMPERATURE = 0.7
_EXAMPLE_CHARS = 120
_NUMBERS = ("cause", "prompt_tokens", "output_tokens", "attempts", "asked")  # columns of a row other than its text

ProfileConfig = ItemProfileConfig | UserProfileConfig


def conversation_keys(conversations: Iterable[Conversation], llm: LLMConfig, config: ProfileConfig) -> pl.Series:
    """The ledger key of each conversation: the rendered prompt, the model, the sampling and the output schema."""
    sampling = {"temperature": llm.temperature, "seed": llm.seed, "dtype": llm.dtype, "max_tokens": config.max_tokens}
    sampling |= {"max_model_len": llm.max_model_len, "frequency_penalty": llm.frequency_penalty}
    common = json.dumps([model_identity(llm), sampling, profile_schema(config.max_chars)], sort_keys=True).encode()
    rendered = (json.dumps(conversation, ensure_ascii=False, sort_keys=True) for conversation in conversations)
    return pl.Series(KEY, [row_key(common, text.encode()) for text in rendered], dtype=pl.String)


ENGINES: Registry[Engine] = Registry("LLM engine")
"""Functions of `LLMConfig`, by `llm.engine`. Each imports its own library, which may be large."""


@ENGINES.register("server")
def _server(config: LLMConfig) -> Engine:
    from darec.text.server import ServerEngine

    return ServerEngine(config)


@ENGINES.register("offline")
def _offline(config: LLMConfig) -> Engine:
    from darec.text.engine import EngineSettings, OfflineEngine

    return OfflineEngine(EngineSettings.of(config, resolve(config.model, config.revision)))


@ENGINES.register("ray")
def _ray(config: LLMConfig) -> Engine:
    from darec.text.ray_engine import RayEngine

    return RayEngine(config)


def open_engine(config: LLMConfig, ledger_root: Path | None = None) -> AbstractContextManager[Engine]:
    """The configured engine, as a context manager that releases its memory.

    Args:
        config: the engine's settings.
        ledger_root: where open batches are recorded; without it no batches are sent.
    """
    if config.batch_api and ledger_root is not None:
        from darec.text.batches import BatchEngine

        return closing(BatchEngine(config, ledger_root / "batches"))
    return closing(ENGINES.make(config.engine, config))


def profile_ledger(root: Path) -> Ledger:
    """The row ledger of all profiles."""
    return Ledger(root / "profiles.sqlite", PROFILE_ROWS)


class ToAsk(NamedTuple):
    """The rows that a run requests from the LLM."""

    new: pl.Series
    """The keys that the ledger lacks."""
    again: pl.DataFrame
    """The ledger rows of the fallbacks that are due again."""
    held: pl.DataFrame
    """The ledger rows of all keys, without the texts."""


@dataclass
class Generation:
    """One pass over the rows that the ledger lacks, and the fallbacks that are due again."""

    llm: LLMConfig
    config: ProfileConfig
    ledger: Ledger
    progress: Progress = field(default_factory=Silent)
    tally: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    """Number of rows that each server answered, if there are several."""
    unusable: Counter[str] = field(default_factory=Counter)
    """Number of answers of each server that could not be used."""
    examples: dict[str, str] = field(default_factory=dict)
    """The beginning of an unusable answer or of the server's message, for each cause."""
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The ledger rows of the keys that are requested again, from earlier runs."""
    budget: Budget = field(init=False)
    """The remaining budget of the run."""

    def __post_init__(self) -> None:
        self.budget = Budget(self.llm, self.config.max_tokens)
        self._left = 0  # number of rows that still have a request outstanding
        self._stored: set[str] = set()  # keys with a fallback in the ledger, which the next answer replaces

    def run(
        self,
        conversation: Callable[[int], Conversation],
        keys: pl.Series,
        shorter: Callable[[int], tuple[Conversation, ...]] = lambda row: (),
        engine: Engine | None = None,
    ) -> dict[str, Any]:
        """Fills the ledger for `keys` and reports the requests.

        Every answer is written to the ledger as soon as the engine returns it. A row with an unusable answer is
        requested again, by the next run if this one ends before; if that fails too, its text comes from metadata.

        Args:
            conversation: returns the prompt of a row.
            keys: the ledger keys of all rows.
            shorter: versions of a row's prompt with less data, longest first.
            engine: replaces the configured engine.

        Raises:
            DarecError: the engine cannot be started or ended; if only fallbacks are due, a warning is logged instead.
            LimitError: the limit of the run is reached; answers are kept. If only fallbacks are due, a warning is
            logged instead.
        """
        started = time.monotonic()
        new, again, _ = self.to_ask(keys, repair=True)
        self.before = {row[KEY]: row for row in again.iter_rows(named=True)}
        self._stored = set(self.before)
        asked = [*new, *self.before]
        self._left = len(asked)
        unfinished = len(new) or any(row["attempts"] == 0 for row in self.before.values())
        first = keys.rename(KEY).to_frame().with_row_index("row").unique(KEY, keep="first")
        rows = dict(first.filter(pl.col(KEY).is_in(asked)).select(KEY, "row").iter_rows())
        self.progress.start("profiles", len(asked))

        try:
            if asked:
                ready = open_engine(self.llm, self.ledger.path.parent) if engine is None else nullcontext(engine)
                with ready as source:
                    self._generate(source, asked, lambda key: conversation(rows[key]), lambda key: shorter(rows[key]))
        except DarecError as error:
            if unfinished:
                raise
            warn_once(f"{again.height:,} rows without an answer of the LLM could not be requested again: {error}")
            postponed = self.ledger.get(again[KEY]).with_columns(asked=pl.lit(int(time.time())))
            self.ledger.append(postponed, replace=True)

        return self._report(keys, len(new), time.monotonic() - started)

    def to_ask(self, keys: pl.Series, repair: bool = False) -> ToAsk:
        """The keys that the ledger lacks, and the fallbacks that are due again. Each key is looked up once.

        Args:
            keys: the keys of a whole table.
            repair: whether the ledger may be changed to recover rows before they count as missing.
        """
        found = self.ledger.look_up(keys, _NUMBERS, repair=repair)  # without the texts of all rows
        failed = found.rows.filter(pl.col("cause") != "", pl.col("attempts").fill_null(1) != 0)[KEY]
        too_many = keys.is_in(failed.implode()).sum() > self.llm.max_fallback_share * len(keys)
        again = due(found.rows, keys.n_unique(), self.llm, time.time(), urgent=too_many)
        return ToAsk(found.missing, self.ledger.rows(again[KEY]), found.rows)

    def _generate(
        self,
        engine: Engine,
        keys: list[str],
        prompt: Callable[[str], Conversation],
        shorter: Callable[[str], tuple[Conversation, ...]],
    ) -> None:
        bad = {key: row["cause"] for key, row in self.before.items() if _is_outstanding(row)}
        first = [key for key in keys if key not in bad]
        bad |= self._ask(engine, first, lambda key: self._request(key, prompt(key)), final=())

        # A prompt that does not fit the model is shortened. It keeps its key, so that plans need not tokenise.
        cut = dict.fromkeys(key for key, cause in bad.items() if cause == "too_long")  # an ordered set
        bad = {key: cause for key, cause in bad.items() if key not in cut}
        bad |= self._ask(
            engine, list(cut), lambda key: self._request(key, prompt(key), shorter(key)), final=("too_long",)
        )

        self.tally["retried"] = len(bad)

        def again(key: str) -> Request:
            return self._request(key, prompt(key), shorter(key) if key in cut else (), tries=1)

        self._ask(engine, list(bad), again, final=CAUSES)

    def _ask(
        self, engine: Engine, keys: list[str], request: Callable[[str], Request], final: Collection[str]
    ) -> dict[str, str]:
        """Sends requests, and stores each row that has an answer or failed for a `final` cause. Returns key and cause
        of the rows without a usable answer whose cause is not `final`: another request follows.

        Prompts are rendered when the engine takes them, so that it never waits for others, and only open ones are in
        memory. An error is raised after the rows that arrived with it are stored, and LimitError when the limit of the
        run is reached and the open rows are answered.
        """
        bad: dict[str, str] = {}
        schema = profile_schema(self.config.max_chars)

        for answers in self._answers(engine, LazyRequests(keys, request), schema):
            rows, failure = [], None
            for answer in answers:
                try:
                    rows.append(self._row(answer, final))
                except Exception as error:
                    failure = error

            self._keep([row for row in rows if row["cause"] in final or row["cause"] not in UNPAID])
            again = {row[KEY]: row["cause"] for row in rows if row["cause"] and row["cause"] not in final}
            bad |= again
            self.tally.update(f"failed_{row['cause']}" for row in rows if row["cause"])
            self.progress.advance(len(rows) - len(again))
            self._left -= len(rows) - len(again)
            if failure is not None:
                raise failure

        self.budget.stop(self._left)
        return bad

    def _request(
        self, key: str, messages: Conversation, shorter: tuple[Conversation, ...] = (), tries: int = 0
    ) -> Request:
        """A row with an unusable answer is requested again with a higher temperature and another seed, because the
        answer would otherwise be the same.
        """
        earlier = self.before.get(key)
        if earlier is not None and earlier["cause"] not in NEVER_SAMPLED:
            tries += 2 * _finished_runs(earlier)
        temperature = max(self.llm.temperature, _RETRY_TEMPERATURE) if tries else self.llm.temperature
        return Request(key, messages, (int(key[:7], 16) + self.llm.seed + tries) % 2**31, temperature, shorter)

    def _answers(self, engine: Engine, requests: Sequence[Request], schema: dict[str, Any]) -> Iterator[list[Answer]]:
        """The engine's answers, until there are no more requests or the budget is used up.

        The first rows are limited by a cautious estimate of their tokens, and the others by the mean of the answered
        rows.
        """
        waiting = self.budget.ration(requests)
        while True:
            for answers in engine.generate(waiting, schema, self.config.max_tokens):
                for answer in answers:
                    self.budget.answered(answer)
                yield answers
            waiting = self.budget.ration(waiting.left())
            if not self.budget.allows_more(waiting):
                return

    def _row(self, answer: Answer, final: Collection[str]) -> dict[str, Any]:
        text, cause = read_profile(answer, self.config.max_chars)
        if cause and answer.text.strip():
            self.examples.setdefault(cause, printable(answer.text, _EXAMPLE_CHARS))
        self.tally["prompt_tokens"] += answer.prompt_tokens
        self.tally["output_tokens"] += answer.output_tokens
        if answer.server:
            self.servers[answer.server] += 1
            self.unusable[answer.server] += bool(cause)
        row = {KEY: answer.key, "text": text or "", "cause": cause}
        row |= {"prompt_tokens": answer.prompt_tokens, "output_tokens": answer.output_tokens}
        earlier = self.before.get(answer.key)
        if not cause and earlier is None:
            return row | {"attempts": None, "asked": None}
        runs = _finished_runs(earlier) if earlier else 0
        ends = not cause or cause in final

        return row | {"attempts": runs + 1 if ends else -runs, "asked": int(time.time())}

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows to the ledger. A row that was requested again replaces its fallback."""
        schema = dict(PROFILE_ROWS)
        self.ledger.append(pl.DataFrame([row for row in rows if row[KEY] not in self._stored], schema=schema))
        replacing = pl.DataFrame([row for row in rows if row[KEY] in self._stored], schema=schema)
        self._stored.update(row[KEY] for row in rows if row["cause"])
        if replacing.is_empty():
            return

        # A usable answer that another run has received in the meantime is kept.
        answered = self.ledger.get(replacing[KEY], ["cause"]).filter(pl.col("cause") == "")[KEY]
        self.ledger.append(replacing.filter(~pl.col(KEY).is_in(answered.implode())), replace=True)
        self.tally["recovered"] += sum(row[KEY] in self.before and not row["cause"] for row in rows)

    def _tell_bad_servers(self) -> None:
        """Warns of servers most of whose answers cannot be used, unless this is so of all servers."""
        bad = [name for name, count in self.servers.items() if self.unusable[name] > count / 2]
        for name in bad if len(bad) < len(self.servers) else ():
            count, total = self.unusable[name], self.servers[name]
            warn_once(
                f"{count:,} of {total:,} answers of the LLM server {name} cannot be used, unlike those of the others: "
                "check its model and whether it supports JSON schemas"
            )

    def _report(self, keys: pl.Series, generated: int, seconds: float) -> dict[str, Any]:
        self._tell_bad_servers()
        causes = {name: self.tally[name] for name in sorted(self.tally) if self.tally[name]}
        return {
            "rows": len(keys),
            "from_ledger": keys.n_unique() - generated,
            "generated": generated,
            "retried": self.tally["retried"],
            "servers": dict(self.servers.most_common()),
            "asked_again": len(self.before),
            "recovered": self.tally["recovered"],
            "failures": {name.removeprefix("failed_"): n for name, n in causes.items() if name.startswith("failed_")},
            "prompt_tokens": self.tally["prompt_tokens"],
            "output_tokens": self.tally["output_tokens"],
            "output_tokens_per_second": round(self.tally["output_tokens"] / seconds, 1) if generated else 0.0,
            "seconds": round(seconds, 2),
        }


def _finished_runs(row: dict[str, Any]) -> int:
    """The number of runs that have requested a fallback and its retry; a row of version 0.1 counts as one."""
    return 1 if row["attempts"] is None else abs(row["attempts"])


def _is_outstanding(row: dict[str, Any]) -> bool:
    """Whether the last run that requested a fallback ended before its retry."""
    return row["attempts"] is not None and row["attempts"] <= 0


def read_texts(ledger: Ledger, keys: pl.Series) -> pl.DataFrame:
    """`text` and `cause` of each of `keys`, in their order."""
    return ledger.rows(keys, ["text", "cause"]).with_columns(_visible(pl.col("text")))


def _visible(text: pl.Expr) -> pl.Expr:
    """Texts without the characters that `printable` removes: version 0.1 stored answers unchanged."""
    return text.str.replace_all(r"[\p{Cc}\p{Zl}\p{Zp}]", " ").str.replace_all(r"\p{C}", "")
