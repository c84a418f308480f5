"""The stages of the LLM without an LLM: item texts for synthetic logs, and an engine that answers at once.

`darec bench scale --until profile_users` measures with them what the pipeline adds to the time of an engine.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from darec.text.engine import chunked
from darec.text.generate import ENGINES
from darec.text.protocol import Answer, Request
from schemas.semantic import LLMConfig

STAGES = ("profile_items", "profile_users")
SETTINGS = {"engine": "server", "model": "answers-at-once"}
"""The section `llm`. A server's model is known by its name only, so no model has to be installed."""
_WORDS = 40  # of a description
_CHUNK = 64  # answers that arrive together
_VOCABULARY = [f"{first}{second}" for first in ("sea", "sun", "snow", "night") for second in ("born", "fall", "light")]


class AtOnce:
    """Answers every request with a profile that depends on its prompt."""

    def __init__(self, config: LLMConfig) -> None:
        self.config = config

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Yields the answers in chunks."""
        for _, some in chunked(requests, _CHUNK):
            yield [Answer(each.key, _profile(each), "stop", 200, 20) for each in some]

    def close(self) -> None:
        """There is nothing to free."""


def answer_at_once() -> None:
    """From now on this process has `AtOnce` instead of a server."""
    ENGINES.register("server")(AtOnce)


def _profile(request: Request) -> str:
    content = request.messages[-1]["content"]
    return json.dumps({"profile": f"for people who like what begins with {content[:20]} and ends {request.key[:6]}"})


def write_items(path: Path, ids: pl.LazyFrame) -> None:
    """Writes a title and a description of 40 words for each item of a log.

    Args:
        path: the file to write.
        ids: the log, with the column item_id.
    """
    items = ids.select("item_id").unique().sort("item_id").collect(engine="streaming").with_row_index("row")
    words = pl.Series(_VOCABULARY)
    chosen = [words.gather((items["row"] * (place + 7) // (place + 1)) % len(words)) for place in range(_WORDS)]
    described = items.select(
        "item_id",
        title=pl.lit("Item ") + pl.col("row").cast(pl.String),
        description=pl.concat_str(*chosen, separator=" "),
    )
    described.write_parquet(path)
