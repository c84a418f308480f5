"""Tries a prompt on a few rows and compares it with the prompt of the recipe."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from darec.artifacts.ledger import KEY
from darec.common.errors import UserError
from darec.common.progress import Progress, Silent
from darec.text.answers import CAUSES
from darec.text.generate import Generation, conversation_keys
from darec.text.profiling import ProfileTask
from darec.text.protocol import Conversation, Engine
from schemas import columns as c
from schemas.reports import ProfileReport

FALLBACKS = "fallbacks"
"""The value that selects the rows without a usable answer of the LLM."""
_IDS = "id:"


@dataclass(frozen=True)
class Side:
    """The result of one prompt for a row."""

    prompt: str
    """The last turn of the prompt, or the whole text of a template without an LLM."""
    text: str | None
    """The profile; None if it was not requested."""
    cause: str = ""
    """Why the text comes from metadata; empty for an answer of the LLM."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def tokens(self) -> str:
        """The tokens in words; empty if unknown."""
        if self.prompt_tokens is None:
            return ""
        return f"{self.prompt_tokens:,}" + ("" if self.output_tokens is None else f" + {self.output_tokens:,}")


@dataclass(frozen=True)
class TriedRow:
    """One item or user under both prompts."""

    id: str
    title: str
    """The title of an item; empty for a user."""
    old: Side
    new: Side


@dataclass(frozen=True)
class Trial:
    """The results and the cost of a trial."""

    name: str
    """The name of the prompt: `profile_items`, `profile_users`, `item_text` or `user_text`."""
    old_path: str
    new_path: str
    rows: tuple[TriedRow, ...]
    old_turns: Conversation = ()
    """The turns before the last one, which are the same for all rows in most prompts: those of the first row."""
    new_turns: Conversation = ()
    asked: int = 0
    """Number of prompts that were sent to the LLM; the other answers were in the ledger."""
    seconds: float = 0.0
    """Time for these, including the start of the engine."""
    report: ProfileReport | None = None
    """The requests of the new prompt; None if nothing was requested."""
    notes: tuple[str, ...] = ()

    @property
    def asks_llm(self) -> bool:
        """Whether the prompt is sent to the LLM, and is not the template of a text for the encoder."""
        return self.name in ("profile_items", "profile_users")

    @property
    def turns_changed(self) -> bool:
        """Whether the prompts differ before the last turn."""
        return self.old_turns != self.new_turns


def chosen_rows(
    rows: pl.DataFrame, wanted: str, causes: Callable[[], pl.Series] | None = None, seed: int = 0
) -> list[int]:
    """Numbers of the selected rows, in the order of the table.

    Args:
        rows: one row per item or user, with its id.
        wanted: a number (a random sample, of which a larger one with the same seed is a superset), `id:a,b`, or
            `fallbacks`.
        causes: returns for each row why the LLM has no usable answer: empty for an answer, null for a row that was
            never requested. None if there is no LLM.
        seed: of the sample.

    Raises:
        UserError: an id is unknown, or `wanted` is not valid.
    """
    if wanted == FALLBACKS:
        if causes is None:
            raise UserError(
                "this template does not use the LLM, so it has no fallbacks", hint="give --rows a number or id:a,b"
            )
        return np.flatnonzero((causes().fill_null("") != "").to_numpy()).tolist()

    if wanted.startswith(_IDS):
        return _rows_of(rows, [each.strip() for each in wanted.removeprefix(_IDS).split(",") if each.strip()])
    if not wanted.isascii() or not wanted.isdigit() or not int(wanted):
        hint = "give a number of rows, id:a,b, or fallbacks"
        raise UserError(f"{wanted!r} does not select rows", where="--rows", hint=hint)

    shuffled = np.random.default_rng(seed).permutation(rows.height)
    return sorted(shuffled[: int(wanted)].tolist())


def _rows_of(rows: pl.DataFrame, ids: Sequence[str]) -> list[int]:
    known = rows[id_column(rows)]
    numbers = {name: row for row, name in enumerate(known)}
    for name in ids:
        if name not in numbers:
            nearest = difflib.get_close_matches(name, known.to_list(), n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "the table is empty"
            raise UserError(f"there is no row {name!r}", where="--rows", hint=hint)
    return sorted({numbers[name] for name in ids})


def id_column(rows: pl.DataFrame) -> str:
    """The column with the external id of an item or user."""
    return c.ITEM if c.ITEM in rows.columns else c.USER


def try_prompt(
    name: str,
    task: ProfileTask,
    path: str,
    wanted: str,
    *,
    seed: int = 0,
    ask_old: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Trial:
    """Requests a few rows with the prompt in `path`, and compares the answers with those of the task's prompt.

    Nothing is written except answers, which are stored in the row ledger, so that a later run with this prompt does not
    request them again. The answers of the task's own prompt come from the ledger.

    Args:
        name: the name of the prompt.
        task: the whole table with its present prompt.
        path: the new prompt.
        wanted: which rows, as in `chosen_rows`.
        seed: of the sample of rows.
        ask_old: also request missing answers to the present prompt.
        progress: shows the number of answered rows.
        engine: replaces the configured engine.

    Raises:
        UserError: a faulty prompt, an unknown row, or an empty selection.
        DarecError: the engine cannot be started or ended; earlier answers are kept.
    """
    old = task
    new = replace(task, config=task.config.model_copy(update={"prompt": path}))
    _ = new.prompt  # raises for a faulty template before rows are rendered
    numbers = chosen_rows(task.rows, wanted, lambda: known_causes(old), seed)
    if not numbers:
        raise UserError("there is no row to try", where=f"--rows {wanted}", hint="give a number of rows")

    # Both prompts are asked about the same rows.
    rows = task.rows[numbers]
    old, new = replace(old, rows=rows), replace(new, rows=rows)
    sides: dict[bool, tuple[list[Conversation], list[Side]]] = {}
    asked, seconds, latest, report = 0, 0.0, 0, {}
    for part, ask in ((old, ask_old), (new, True)):
        conversations = part.conversations()
        keys = conversation_keys(conversations, part.llm, part.config)
        if ask:
            report = _ask(part, conversations, keys, progress, engine)
            latest = report["generated"] + report["asked_again"]  # again: an earlier trial ended before their retry
            asked, seconds = asked + latest, seconds + report["seconds"]
        sides[part is new] = conversations, _sides(part, conversations, keys)

    (old_prompts, old_sides), (new_prompts, new_sides) = sides[False], sides[True]
    titles = rows[c.TITLE] if c.TITLE in rows.columns else [""] * rows.height
    tried = zip(rows[id_column(rows)], titles, old_sides, new_sides, strict=True)
    return Trial(
        name=name,
        old_path=task.config.prompt,
        new_path=path,
        rows=tuple(TriedRow(*row) for row in tried),
        old_turns=old_prompts[0][:-1],
        new_turns=new_prompts[0][:-1],
        asked=asked,
        seconds=seconds,
        report=ProfileReport.model_validate(report) if latest else None,
    )


def known_causes(task: ProfileTask) -> pl.Series:
    """For each row of the task why the LLM has no usable answer: empty for an answer, null for a
    row never requested.
    """
    keys = task.keys()
    held = task.ledger.get(keys, ["cause"])
    return keys.to_frame().join(held, on=KEY, how="left", maintain_order="left")["cause"]


def _ask(
    task: ProfileTask,
    conversations: list[Conversation],
    keys: pl.Series,
    progress: Progress | None,
    engine: Engine | None,
) -> dict[str, Any]:
    # Fallbacks that are due again are left to the nightly run, which counts their requests. A batch of a few
    # rows would take hours.
    llm = task.llm.model_copy(update={"fallback_retries": 0, "batch_api": False})
    generation = Generation(llm, task.config, task.ledger, progress or Silent())
    return generation.run(conversations.__getitem__, keys, task.shorter, engine)


def _sides(task: ProfileTask, conversations: list[Conversation], keys: pl.Series) -> list[Side]:
    """The ledger row of each row; the text of a fallback is the one from metadata."""
    held = task.ledger.get(keys, ["text", "cause", "prompt_tokens", "output_tokens"])
    known = keys.to_frame().join(held, on=KEY, how="left", maintain_order="left")
    texts = known.with_columns(metadata=task.rows.select(task.from_metadata.alias("m"))["m"]).with_columns(
        text=pl.when(pl.col("cause") == "").then("text").when(pl.col("cause").is_not_null()).then("metadata")
    )
    columns = ("text", "cause", "prompt_tokens", "output_tokens")
    return [
        Side(messages[-1]["content"], text, cause or "", prompt_tokens, output_tokens)
        for messages, (text, cause, prompt_tokens, output_tokens) in zip(
            conversations, texts.select(columns).iter_rows(), strict=True
        )
    ]


def meaning(cause: str) -> str:
    """A cause of a fallback in words."""
    return CAUSES.get(cause, cause)
