"""Profiles of many rows: prompts are in memory a chunk at a time, and a plan of many renders a sample of them."""

from dataclasses import replace

import polars as pl
import pytest

from darec.artifacts import sqlite_rows
from darec.text import entities
from darec.text.engine import chunked
from darec.text.entities import ITEM_VARIABLES, even_sample, item_text_from_metadata, items_as_data
from darec.text.profiling import Forecast, ProfileTask
from darec.text.prompts import Prompt
from schemas import columns as c
from schemas import tables
from schemas.semantic import ItemProfileConfig, LLMConfig
from tests.unit.test_generate import Script, well

ROWS = 40


def vocabulary() -> pl.DataFrame:
    ids = [f"i{number:03d}" for number in range(ROWS)]
    return pl.DataFrame({c.ITEM_INDEX: range(ROWS), c.ITEM: ids}, schema=tables.ITEM_VOCABULARY)


def catalogue() -> pl.DataFrame:
    ids = vocabulary()[c.ITEM]
    titles = [f"Title {number}" for number in range(ROWS)]
    rows = {c.ITEM: ids, c.TITLE: titles, c.DESCRIPTION: [None] * ROWS, c.ATTRIBUTES: [[]] * ROWS}
    return pl.DataFrame(rows, schema=tables.ITEMS)


@pytest.fixture
def whole(tmp_path) -> ProfileTask:
    return ProfileTask(
        rows=items_as_data(vocabulary(), catalogue()),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=LLMConfig(),
        config=ItemProfileConfig(),
        ledger_root=tmp_path,
    )


def sampled(whole: ProfileTask) -> ProfileTask:
    rows, total = even_sample(vocabulary())
    return replace(whole, rows=items_as_data(rows, catalogue()), sample_of=total)


@pytest.fixture
def rendered(monkeypatch) -> list[int]:
    """Grows with every prompt that is rendered."""
    made, plain = [], Prompt.messages
    monkeypatch.setattr(Prompt, "messages", lambda self, values: made.append(1) or plain(self, values))
    return made


class Lazy(Script):
    """Takes requests two at a time, and notes how many prompts were rendered before each answer."""

    def __init__(self, rendered: list[int]) -> None:
        super().__init__(well)
        self.rendered, self.before = rendered, []

    def generate(self, requests, schema, max_tokens):
        for _, some in chunked(requests, 2):
            self.before.append(len(self.rendered))
            yield from super().generate(some, schema, max_tokens)


def test_prompts_are_rendered_when_the_engine_takes_them(whole, rendered):
    engine = Lazy(rendered)
    profiles, report = whole.run(engine=engine)
    assert engine.before == list(range(ROWS + 2, 2 * ROWS + 2, 2)), "once for the keys, then two by two"
    assert report["generated"] == ROWS
    assert profiles[c.PROFILE].to_list() == [f'a profile of "Title {number}"' for number in range(ROWS)]


def test_a_plan_of_many_rows_renders_a_sample(whole, rendered, monkeypatch):
    monkeypatch.setattr(entities, "_FEW", 20)
    monkeypatch.setattr(entities, "_SAMPLE", 10)
    exact = whole.forecast()
    del rendered[:]
    found = sampled(whole).forecast()
    assert len(rendered) == 10
    assert (found.rows, found.about) == (ROWS, True)
    assert found.prompt_tokens == pytest.approx(exact.prompt_tokens, rel=0.1)
    whole.run(engine=Script(well))
    assert sampled(whole).forecast() == Forecast(0, 0, 0, about=True)


def test_a_plan_looks_each_row_up_once(whole, monkeypatch):
    """Each look-up verifies the row's checksum: of a million rows these are seconds."""
    whole.run(engine=Script(well))
    verified, plain = [], sqlite_rows.is_intact
    monkeypatch.setattr(sqlite_rows, "is_intact", lambda row: verified.append(row[0]) or plain(row))
    assert whole.forecast().rows == 0
    assert len(verified) == len(set(verified)) == ROWS


def test_a_sample_is_even_and_few_rows_are_all_counted(monkeypatch):
    assert even_sample(vocabulary())[1] is None
    monkeypatch.setattr(entities, "_FEW", 20)
    monkeypatch.setattr(entities, "_SAMPLE", 8)
    rows, total = even_sample(vocabulary())
    assert (rows[c.ITEM_INDEX].to_list(), total) == (list(range(0, ROWS, 5)), ROWS)
