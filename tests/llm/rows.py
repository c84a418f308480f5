"""A small profile task for the real model."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from darec.text.entities import ITEM_VARIABLES, item_text_from_metadata, items_as_data
from darec.text.profiling import ProfileTask
from schemas import columns as c
from schemas import tables
from schemas.semantic import ItemProfileConfig, LLMConfig

TITLES = (
    "The Godfather (1972)", "Toy Story (1995)", "Fargo (1996)", "Braveheart (1995)", "Babe (1995)", "Casablanca (1942)",
    "Psycho (1960)", "Star Wars (1977)", "Clueless (1995)", "The Shining (1980)", "Amadeus (1984)", "Speed (1994)",
)  # fmt: skip
GENRES = (
    "Crime",
    "Animation",
    "Crime",
    "War",
    "Children's",
    "Romance",
    "Horror",
    "Sci-Fi",
    "Comedy",
    "Horror",
    "Music",
    "Action",
)


def profile_task(ledger: Path, count: int = len(TITLES), **llm: object) -> ProfileTask:
    """`count` items; beyond the twelve real ones they are numbered sequels."""
    titles = [TITLES[row % 12] + (f" part {row // 12 + 1}" if row >= 12 else "") for row in range(count)]
    config = LLMConfig.model_validate({"workers": 1, "chunk": 4, "max_model_len": 512, "kv_cache_mib": 256, **llm})
    return task_of(ledger, titles, [GENRES[row % 12] for row in range(count)], config)


def task_of(ledger: Path, titles: Sequence[str], genres: Sequence[str], llm: LLMConfig) -> ProfileTask:
    """Items of these titles and genres, numbered in their order."""
    ids = [f"item-{row}" for row in range(len(titles))]
    attributes = [[{"name": "genres", "value": genre}] for genre in genres]
    columns = {c.ITEM: ids, c.TITLE: titles, c.DESCRIPTION: [None] * len(ids), c.ATTRIBUTES: attributes}
    vocabulary = pl.DataFrame({c.ITEM_INDEX: range(len(ids)), c.ITEM: ids}, schema=tables.ITEM_VOCABULARY)
    return ProfileTask(
        rows=items_as_data(vocabulary, pl.DataFrame(columns, schema=tables.ITEMS)),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=llm,
        config=ItemProfileConfig(),
        ledger_root=ledger,
    )
