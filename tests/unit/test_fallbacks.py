"""Fallbacks are asked again on later nights: a bounded number of times, cheapest first, and no row is lost.

The stages run as they are, against a real server on loopback; a night passes when the wall clock is moved by a day.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.recipes import load_recipe
from darec.text import server
from darec.text.fallbacks import due
from darec.text.generate import profile_ledger
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.section import hashed
from schemas.semantic import LLMConfig
from schemas.tables import PROFILE_ROWS
from stages.execute import Result
from stages.plan import Step, finished, plan
from stages.registry import needed
from stages.walk import run
from tests.data import write_checkerboard
from tests.llm_stub import Handler, Stub, completion, profile, send, stub

DAY = 86_400
RECIPE = """
data:
  source: csv
  interactions: {folder}/data/interactions.csv
  items: {folder}/data/items.csv
  users: {folder}/data/users.csv
  interaction_columns: {{rating: rating, timestamp: timestamp, split: split}}
split: {{strategy: column}}
llm: {{engine: server, model: stub, server_url: "{url}", retries: 0, timeout: 10}}
runtime: {{store: {folder}/store, min_free_gb: 0.001}}
"""


class Clock:
    """The wall clock, moved by whole days."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.days = 0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.days * DAY)


class House:
    """A store, a server that refuses some items, and a clock."""

    def __init__(self, folder: Path, llm: Stub, clock: Clock) -> None:
        write_checkerboard(folder / "data")
        self.path, self.llm, self.clock = folder / "recipe.yaml", llm, clock
        self.path.write_text(RECIPE.format(folder=folder, url=llm.url))
        self.refused: set[str] = set()
        llm.behave = self._behave

    def _behave(self, request: dict[str, Any], handler: Handler) -> None:
        prompt = request["messages"][-1]["content"]
        if any(prompt.startswith(f'"{title}"') for title in self.refused):
            send(handler, completion("I'm sorry, I can't help with that."))
        else:
            send(handler, completion(profile(request)))

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(self.path, overrides)

    def plan(self, *overrides: str) -> Step:
        recipe = self.recipe(*overrides)
        return plan(recipe, Store(recipe.runtime.store), "profile_items")[-1]

    def titles(self) -> list[str]:
        return pl.read_csv(self.path.parent / "data" / "items.csv")["title"].to_list()

    def night(self, *overrides: str, until: str = "profile_items") -> tuple[Result, list[str]]:
        """The result of the stage, and the prompts that were sent for it."""
        before = len(self.llm.asked)
        result = run(self.recipe(*overrides), until)[-1]
        return result, self.llm.prompts()[before:]

    def sources(self, result: Result) -> Counter[str]:
        assert result.artifact is not None
        return Counter(pl.read_parquet(result.artifact.path / "profiles.parquet")[c.SOURCE].to_list())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_FIRST_PAUSE", 0.02)
    with stub(lambda request, handler: None) as llm:
        yield House(tmp_path, llm, Clock(monkeypatch))


def test_a_fallback_is_replaced_on_the_next_night_and_not_before(house: House) -> None:
    [bad] = house.refused = {house.titles()[0]}
    first, prompts = house.night()
    rows = len(house.titles())
    assert house.sources(first) == {"llm": rows - 1, "metadata": 1}
    assert (first.report.from_metadata, first.report.rows, first.report.causes) == (1, rows, {"refused": 1})
    assert len(prompts) == rows + 1

    house.refused = set()
    again, prompts = house.night()
    assert again.cached and prompts == [], "a run that is repeated at once is a hit"

    house.clock.days = 1
    step = house.plan()
    assert (step.state, step.rows, step.why) == ("stale", 1, ("1 rows without an answer of the LLM are due again",))
    recipe = house.recipe()
    for_trials = finished(recipe, Store(recipe.runtime.store), needed(recipe, "profile_items"))
    assert for_trials["profile_items"] == first.artifact, "trials of prompts and benchmarks do without the answer"
    second, prompts = house.night()
    assert second.why == step.why
    assert [prompt.split('"')[1] for prompt in prompts] == [bad]
    assert house.sources(second) == {"llm": rows}
    assert (second.report.asked_again, second.report.recovered, second.report.from_metadata) == (1, 1, 0)
    assert second.artifact is not None and first.artifact is not None
    assert second.artifact.key == first.artifact.key

    for house.clock.days in (1, 2, 30):
        result, prompts = house.night()
        assert result.cached and prompts == []


def test_a_row_that_is_always_refused_is_asked_on_three_more_nights_and_then_left(house: House) -> None:
    [bad] = house.refused = {house.titles()[0]}
    asked = []
    for night in range(8):
        house.clock.days = night
        for _ in range(2):  # each night twice
            result, prompts = house.night()
            asked.append(len(prompts))
            assert house.sources(result)["metadata"] == 1
    rows = len(house.titles())
    assert asked == [rows + 1, 0, 2, 0, 2, 0, 2, 0, *[0] * 8]
    requests = [request for request in house.llm.asked if f'"{bad}"' in request["messages"][-1]["content"]]
    assert len(requests) == 8
    assert len({request["seed"] for request in requests}) == 8, "each try has its own draw"
    assert [request["temperature"] > 0 for request in requests] == [False] + [True] * 7
    assert plan(house.recipe(), Store(house.recipe().runtime.store), "profile_items")[-1].state == "hit"
    assert (
        plan(house.recipe("llm.fallback_retries=9"), Store(house.recipe().runtime.store), "profile_items")[-1].rows == 1
    )


def test_a_night_that_ends_before_the_second_request_of_a_fallback_is_finished_by_the_next(house: House) -> None:
    [bad] = house.refused = {house.titles()[0]}
    house.night()
    answers = iter(["refused", "no key"])

    def behave(request: dict[str, Any], handler: Handler) -> None:
        refused = next(answers) == "refused"
        send(handler, completion("I'm sorry, I can't help with that.") if refused else {}, 200 if refused else 401)

    house.clock.days, house.llm.behave = 1, behave
    assert len(house.night()[1]) == 2
    house.llm.behave = house._behave
    assert house.night()[0].cached, "and not again in the same night"
    counts = []
    for house.clock.days in range(2, 7):
        counts.append(len(house.night()[1]))
    assert counts == [1, 2, 2, 0, 0], "three nights with two answers each"
    requests = [request for request in house.llm.asked if f'"{bad}"' in request["messages"][-1]["content"]]
    assert len(requests) == 9 and len({request["seed"] for request in requests}) == 8, "only the refused key is twice"


def test_in_one_night_a_share_of_the_rows_is_asked_again_the_cheapest_first(house: House) -> None:
    house.refused = set(house.titles()[:5])
    rows = len(house.titles())
    share = (f"llm.fallback_retry_share={2.5 / rows}",)
    house.night(*share)
    counts = []
    for night in range(1, 12):
        house.clock.days = night
        for _ in range(2):
            _, prompts = house.night(*share)
            counts.append(len(set(prompts)))
    assert counts == [*[2, 0] * 7, 1, 0, *[0] * 6], "five rows, three nights each, two a night"


def test_cheap_rows_come_first_and_the_limits_hold() -> None:
    rows = pl.DataFrame(
        [
            ("a", "x", "", 10, None, None),
            ("b", "", "refused", 30, 1, 10**6),
            ("c", "", "loop", 10, 3, 10**6),
            ("d", "", "empty", 20, None, None),
            ("e", "", "empty", 5, 4, 10**6),
            ("f", "", "empty", 40, -2, 10**6),
        ],
        schema={n: t for n, t in PROFILE_ROWS.items() if n != "output_tokens"},
        orient="row",
    )

    def keys(now: float = 10**7, total: int = 100, urgent: bool = False, **llm: Any) -> list[str]:
        return due(rows, total, LLMConfig(**llm), now, urgent)["key"].to_list()

    assert keys() == ["d", "b", "f", "c"], "those asked on fewest nights first, and of these the cheapest"
    assert keys(fallback_retries=4) == ["d", "b", "f", "c", "e"]
    assert keys(fallback_retries=1) == ["d", "b"]
    assert keys(fallback_retries=0) == []
    assert keys(total=20) == ["d", "b"]
    assert keys(total=1, fallback_retry_share=0) == ["d"]
    assert keys(now=10**5) == keys(), "requests in the future are of a clock that was set back"
    assert keys(now=10**6 - 2000) == keys(now=10**6 + 2000)
    assert keys(now=10**6 + 2000) == ["d"], "the others were asked less than twelve hours ago"
    assert keys(now=10**6 + 2000, total=20) == [], "and they are as many as one night takes"
    assert keys(now=10**6 + 2000, total=20, urgent=True) == ["d", "b", "f", "c"]


def test_a_row_whose_first_run_is_incomplete_is_due_at_once_and_before_others() -> None:
    rows = pl.DataFrame(
        [("a", "", "empty", 30, 0, 10**6), ("b", "", "empty", 40, 0, 10**6), ("c", "", "empty", 10, None, None)],
        schema={n: t for n, t in PROFILE_ROWS.items() if n != "output_tokens"},
        orient="row",
    )

    def keys(total: int, **llm: Any) -> list[str]:
        return due(rows, total, LLMConfig(**llm), 10**6 + 1)["key"].to_list()

    assert keys(30) == ["a", "b", "c"]
    assert keys(20) == ["a", "b"], "a tenth of the rows, and then the others wait"
    assert keys(10, fallback_retries=0) == ["a", "b"]


def test_a_server_that_refuses_all_stops_the_stage_and_nothing_paid_is_lost(house: House) -> None:
    titles = house.titles()
    house.refused = set(titles[2:])
    with pytest.raises(UserError) as caught:
        house.night()
    words = str(caught.value)
    failed = len(titles) - 2
    assert f"no usable answer for {failed} of {len(titles)} rows" in words
    assert f"refused {failed} (the model declines, for example \"I'm sorry, I can't help with that.\")" in words
    assert "llm.max_fallback_share" in words
    assert not Store(house.recipe().runtime.store).artifacts("profile_items")

    house.refused = set()
    result, prompts = house.night()
    assert sorted(prompt.split('"')[1] for prompt in prompts) == sorted(titles[2:]), "the same night, all at once"
    assert house.sources(result) == {"llm": len(titles)}


def test_a_new_row_does_not_delay_the_others_after_the_cause_is_fixed(house: House) -> None:
    titles = house.titles()
    house.refused = set(titles)
    with pytest.raises(UserError, match="no usable answer"):
        house.night()
    items = house.path.parent / "data" / "items.csv"
    items.write_text(items.read_text().replace(titles[-1], "A Brand New Title"))
    house.clock.days, house.refused = 1, set()
    result, prompts = house.night()
    assert len(prompts) == len(titles) and house.sources(result) == {"llm": len(titles)}


def test_a_stage_that_keeps_stopping_asks_a_bounded_number_of_times(house: House) -> None:
    house.refused = set(house.titles())
    counts = []
    for _ in range(6):
        before = len(house.llm.asked)
        with pytest.raises(UserError, match="llm.fallback_retries"):
            house.night()
        counts.append(len(house.llm.asked) - before)
    rows = len(house.titles())
    assert counts == [2 * rows] * 4 + [0, 0]
    result, _ = house.night("llm.max_fallback_share=1")
    assert house.sources(result) == {"metadata": rows}


def test_a_server_that_is_away_when_only_fallbacks_are_due_costs_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.refused = {house.titles()[0]}
    first, _ = house.night()
    house.clock.days = 1
    away = "llm.server_url=http://127.0.0.1:1/v1"
    result, _ = house.night(away)
    assert house.sources(result) == house.sources(first)
    assert any("could not be requested again" in record.getMessage() for record in caplog.records)
    result, _ = house.night(away)
    assert result.cached, "not tried again at every run of the night"
    house.clock.days, house.refused = 2, set()
    result, _ = house.night()
    assert house.sources(result)["metadata"] == 0


def test_users_follow_when_an_items_fallback_is_replaced(house: House) -> None:
    house.refused = {house.titles()[0]}
    first, _ = house.night(until="profile_users")
    house.clock.days, house.refused = 1, set()
    second, prompts = house.night(until="profile_users")
    assert first.artifact is not None and second.artifact is not None
    assert second.artifact.key != first.artifact.key, "the prompts of those who know the item are others"
    assert 1 < len(prompts) <= 1 + second.report.rows


def test_new_rows_and_due_fallbacks_are_asked_in_one_go(house: House) -> None:
    bad = house.titles()[0]
    house.refused = {bad}
    house.night()
    items = house.path.parent / "data" / "items.csv"
    items.write_text(items.read_text().replace(house.titles()[-1], "A Brand New Title"))
    house.refused = set()
    _, prompts = house.night()
    assert [prompt.split('"')[1] for prompt in prompts] == ["A Brand New Title"], "the same night"
    house.clock.days = 1
    items.write_text(items.read_text().replace("A Brand New Title", "Another Title"))
    result, prompts = house.night()
    assert sorted(prompt.split('"')[1] for prompt in prompts) == sorted(["Another Title", bad])
    assert (result.report.generated, result.report.asked_again) == (1, 1)


def test_an_artifact_without_a_list_of_its_fallbacks_is_made_again_once(house: House) -> None:
    """As version 0.1 left them: no list beside the profiles, no nights in the ledger."""
    house.refused = {house.titles()[0]}
    first, _ = house.night()
    assert first.artifact is not None
    manifest = first.artifact.path / "manifest.json"
    content = first.artifact.manifest.model_dump(mode="json")
    del content["files"]["fallbacks.parquet"]
    manifest.write_text(first.artifact.manifest.model_validate(content).model_dump_json())
    (first.artifact.path / "fallbacks.parquet").unlink()
    ledger = profile_ledger(Store(house.recipe().runtime.store).ledger)
    old = ledger.get(pl.read_parquet(first.artifact.path / "profiles.parquet").select(pl.lit("x"))["literal"])
    assert old.is_empty()
    house.clock.days = 1
    result, prompts = house.night()
    assert len(prompts) == 2 and not result.cached
    result, prompts = house.night()
    assert prompts == [] and result.cached


def test_no_limit_on_fallbacks_is_part_of_a_key() -> None:
    assert hashed(LLMConfig()) == hashed(
        LLMConfig(max_fallback_share=1, fallback_retries=9, fallback_retry_share=1, fallback_retry_hours=0)
    )
