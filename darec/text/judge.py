"""An LLM as a judge of texts: one score per row, which is kept in a ledger, so that no text is scored twice."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.progress import Progress, Silent
from darec.text.budget import Budget
from darec.text.generate import open_engine
from darec.text.identity import model_identity
from darec.text.prompts import chat_prompt
from darec.text.protocol import Answer, Conversation, Engine, Request
from darec.text.quality import Floats
from schemas.semantic import LLMConfig
from schemas.tables import TableSchema

VARIABLES = ("metadata", "profile")
SCORES = (1, 2, 3, 4, 5)
_ROWS = TableSchema({KEY: pl.String(), "score": pl.Int32(), "asked": pl.Int64()}, nullable=("score",))
_MAX_TOKENS = 16
_SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "enum": list(SCORES)}},
    "required": ["score"],
    "additionalProperties": False,
}


def judge(
    profiles: Sequence[str],
    metadata: Sequence[str],
    prompt: str,
    llm: LLMConfig,
    ledger_root: Path,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Floats:
    """The score of each profile, 1 to 5 [n]; NaN if the model returns none.

    Args:
        profiles: the texts.
        metadata: the metadata of each row.
        prompt: a template with the variables `metadata` and `profile`.
        llm: the model that judges.
        ledger_root: the folder of the row ledgers.
        progress: shows the number of scored rows.
        engine: replaces the configured engine.

    Raises:
        UserError: a faulty template.
        DarecError: the engine cannot be started, or the limit of the run is reached; scores are kept.
    """
    template = chat_prompt(prompt, VARIABLES)
    pairs = zip(metadata, profiles, strict=True)
    messages = [template.messages({"metadata": known, "profile": text}) for known, text in pairs]
    common = json.dumps([model_identity(llm), llm.seed, llm.dtype, list(SCORES)]).encode()
    keys = pl.Series(KEY, [row_key(common, json.dumps(each, ensure_ascii=False).encode()) for each in messages])

    ledger = Ledger(ledger_root / "judgements.sqlite", _ROWS)
    missing = set(ledger.missing(keys, repair=True))
    asked = {key: each for key, each in zip(keys, messages, strict=True) if key in missing}
    if asked:
        _ask(asked, llm, ledger, progress or Silent(), engine)
    return ledger.rows(keys, ["score"])["score"].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _ask(
    asked: dict[str, Conversation], llm: LLMConfig, ledger: Ledger, progress: Progress, engine: Engine | None
) -> None:
    requests = [Request(key, messages, llm.seed, 0.0) for key, messages in asked.items()]
    budget, left = Budget(llm, _MAX_TOKENS), len(requests)
    progress.start("scored texts", left)
    with open_engine(llm) if engine is None else nullcontext(engine) as source:
        for answers in source.generate(budget.ration(requests), _SCHEMA, _MAX_TOKENS):
            for answer in answers:
                budget.answered(answer)
            rows = [{KEY: answer.key, "score": read_score(answer), "asked": int(time.time())} for answer in answers]
            ledger.append(pl.DataFrame(rows, schema=dict(_ROWS)))
            progress.advance(len(rows))
            left -= len(rows)

    budget.stop(left)


def read_score(answer: Answer) -> int | None:
    """The score in an answer; None for one without."""
    try:
        score = json.loads(answer.text)["score"]
    except (ValueError, TypeError, KeyError):
        return None
    return score if score in SCORES else None
