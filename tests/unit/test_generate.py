"""Generation: known rows come from the ledger, bad answers are asked for once more, no row is dropped."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from darec.common.errors import LimitError
from darec.text.answers import loops, read_profile, whole_words
from darec.text.entities import (
    ITEM_VARIABLES,
    USER_VARIABLES,
    item_text_from_metadata,
    items_as_data,
    known_by_id,
    user_text_from_metadata,
    users_as_data,
)
from darec.text.generate import conversation_keys
from darec.text.histories import choose_pairs
from darec.text.profiling import ProfileTask
from darec.text.protocol import Answer, Request
from schemas import columns as c
from schemas import tables
from schemas.reports import ProfileReport
from schemas.semantic import ItemProfileConfig, LLMConfig, UserProfileConfig

TITLES = ["Alien (1979)", "Jaws (1975)", "Heat (1995)", "Speed (1994)"]


class Script:
    """An engine that answers by a function of the prompt and of how warm the request is."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        for request in reversed(requests):
            self.asked.append(request)
            text, reason = self.answer(request.messages[-1]["content"], request.temperature > 0)
            yield [Answer(request.key, text, reason, 10, 5)]

    def close(self) -> None:
        pass


def profile(text: str) -> tuple[str, str]:
    return json.dumps({"profile": text}), "stop"


def well(prompt: str, warm: bool) -> tuple[str, str]:
    return profile(f"a profile of {prompt}")


def attributes(value: str) -> list[dict[str, str]]:
    return [{"name": "genres", "value": value}]


def items() -> pl.DataFrame:
    rows = {c.ITEM: list("wxyz"), c.TITLE: TITLES, c.DESCRIPTION: [None] * 4, c.ATTRIBUTES: [attributes("Action")] * 4}
    return pl.DataFrame(rows, schema=tables.ITEMS)


def item_vocabulary() -> pl.DataFrame:
    return pl.DataFrame({c.ITEM_INDEX: range(4), c.ITEM: list("wxyz")}, schema=tables.ITEM_VOCABULARY)


def task(folder: Path, items: pl.DataFrame, **llm: Any) -> ProfileTask:
    return ProfileTask(
        rows=items_as_data(item_vocabulary(), items),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=LLMConfig(**llm),
        config=ItemProfileConfig(),
        ledger_root=folder,
    )


def test_every_row_gets_its_own_profile_in_order(tmp_path: Path) -> None:
    profiles, report = task(tmp_path, items()).run(engine=Script(well))
    assert profiles[c.ITEM].to_list() == list("wxyz")
    wanted = [f'a profile of "{title}"; "Action"' for title in TITLES]
    assert profiles[c.PROFILE].to_list() == wanted
    assert profiles[c.SOURCE].to_list() == ["llm"] * 4
    assert (report["generated"], report["output_tokens"], report["from_metadata"]) == (4, 20, 0)


def test_a_second_run_asks_nothing_and_one_changed_title_one_row(tmp_path: Path) -> None:
    first, _ = task(tmp_path, items()).run(engine=Script(well))
    again = Script(well)
    second, report = task(tmp_path, items()).run(engine=again)
    assert second.equals(first)
    assert again.asked == []
    assert report["from_ledger"] == 4
    renamed = items().with_columns(pl.col(c.TITLE).replace("Heat (1995)", "Heat (1995), restored"))
    assert task(tmp_path, renamed).pending() == 1
    again = Script(well)
    task(tmp_path, renamed).run(engine=again)
    assert len(again.asked) == 1


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"seed": 1}, {"max_model_len": 512}, {"dtype": "float32"}])
def test_another_way_of_sampling_is_another_row(tmp_path: Path, change: dict[str, Any]) -> None:
    task(tmp_path, items()).run(engine=Script(well))
    assert task(tmp_path, items(), **change).pending() == 4
    assert task(tmp_path, items(), workers=7, batch=3, kv_cache_mib=99).pending() == 0


def test_equal_prompts_are_asked_once(tmp_path: Path) -> None:
    same = items().with_columns(pl.lit("Alien (1979)").alias(c.TITLE))
    engine = Script(well)
    profiles, _ = task(tmp_path, same).run(engine=engine)
    assert len(engine.asked) == 1
    assert profiles[c.PROFILE].n_unique() == 1
    assert profiles.height == 4


def test_a_bad_answer_is_asked_for_once_more_and_warmer(tmp_path: Path) -> None:
    def answer(prompt: str, warm: bool) -> tuple[str, str]:
        return well(prompt, warm) if warm or "Jaws" not in prompt else ('{"profile":"cut', "length")

    engine = Script(answer)
    profiles, report = task(tmp_path, items()).run(engine=engine)
    assert profiles[c.SOURCE].to_list() == ["llm"] * 4
    assert [request.temperature > 0 for request in engine.asked] == [False] * 4 + [True]
    assert report["retried"] == 1
    assert report["failures"] == {"cut_off": 1}


def test_what_fails_twice_gets_its_text_from_metadata_and_is_not_asked_again_that_night(tmp_path: Path) -> None:
    def answer(prompt: str, warm: bool) -> tuple[str, str]:
        return profile("so so so so so so so so") if "Jaws" in prompt else well(prompt, warm)

    profiles, report = task(tmp_path, items()).run(engine=Script(answer))
    assert profiles[c.SOURCE].to_list() == ["llm", "metadata", "llm", "llm"]
    assert profiles[c.PROFILE][1] == "Jaws (1975); genres Action"
    assert report["causes"] == {"loop": 1}
    assert task(tmp_path, items()).pending() == 0


def test_chunks_finished_before_a_crash_are_kept(tmp_path: Path) -> None:
    calls = []

    def answer(prompt: str, warm: bool) -> tuple[str, str]:
        calls.append(prompt)
        if len(calls) == 3:
            raise RuntimeError("the power went")
        return well(prompt, warm)

    with pytest.raises(RuntimeError):
        task(tmp_path, items()).run(engine=Script(answer))
    assert task(tmp_path, items()).pending() == 2


class InOrder(Script):
    """Takes its requests one by one, as long as the budget of the run allows."""

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        for request in requests:
            yield from super().generate([request], schema, max_tokens)


def test_a_small_budget_takes_more_runs_but_no_more_requests(tmp_path: Path) -> None:
    def answer(prompt: str, warm: bool) -> tuple[str, str]:
        return well(prompt, warm) if "Alien" in prompt or (warm and "Jaws" in prompt) else ("no", "stop")

    work = task(tmp_path, items(), max_tokens_per_run=2 * 15, max_fallback_share=1)
    engine, pending = InOrder(answer), []
    for _ in range(3):
        with pytest.raises(LimitError, match="rows are left"):
            work.run(engine=engine)
        pending.append(work.pending())
    profiles, report = work.run(engine=engine)
    assert pending == [3, 3, 1], "two requests each: of the four rows, and then of the three with a bad answer"
    assert profiles[c.SOURCE].to_list() == ["llm", "llm", "metadata", "metadata"]
    assert len(engine.asked) == len({(request.key, request.seed) for request in engine.asked}) == 4 + 3
    assert (report["generated"], report["asked_again"], report["from_metadata"]) == (0, 1, 2)
    assert work.pending() == 0, "a row that has failed twice waits for another night"


@pytest.mark.parametrize(("first", "warm_again"), [(("no", "stop"), True), (("the server failed", "failed"), False)])
def test_a_run_that_is_killed_before_the_retries_leaves_only_them_to_the_next(
    tmp_path: Path, first: tuple[str, str], warm_again: bool
) -> None:
    def killed(prompt: str, warm: bool) -> tuple[str, str]:
        if warm:
            raise RuntimeError("the power went")
        return well(prompt, warm) if "Jaws" not in prompt else first

    with pytest.raises(RuntimeError):
        task(tmp_path, items(), fallback_retries=0).run(engine=Script(killed))
    assert task(tmp_path, items(), fallback_retries=0).pending() == 1
    engine = Script(well)
    profiles, _ = task(tmp_path, items(), fallback_retries=0).run(engine=engine)
    assert [request.temperature > 0 for request in engine.asked] == [warm_again], "no answer, no retry"
    assert profiles[c.SOURCE].to_list() == ["llm"] * 4


def test_items_of_which_only_the_id_is_known_are_counted() -> None:
    nothing, empty = pl.Series([None] * 4, dtype=pl.String), pl.Series([[]] * 4, dtype=tables.ITEMS[c.ATTRIBUTES])
    bare = items().with_columns(pl.col(c.ITEM).alias(c.TITLE), nothing.alias(c.DESCRIPTION), empty.alias(c.ATTRIBUTES))
    assert known_by_id(items_as_data(item_vocabulary(), bare)) == 4
    assert known_by_id(items_as_data(item_vocabulary(), bare.clear())) == 4, "not even in the table of items"
    titled = bare.with_columns(pl.Series(c.TITLE, ["w", "x", "Alien", "Heat"]))
    assert known_by_id(items_as_data(item_vocabulary(), titled)) == 2
    assert known_by_id(items_as_data(item_vocabulary(), items())) == 0

    (remark,) = ProfileReport(rows=4, only_ids=3).remarks
    assert remark.startswith("3 of 4 items have no title, description or attributes, so the LLM is shown their ids")
    assert ProfileReport(rows=4, only_ids=2).remarks == ()


def test_users_without_history_and_without_metadata_are_kept(tmp_path: Path) -> None:
    vocabulary = pl.DataFrame({c.USER_INDEX: [0, 1], c.USER: ["ann", "bob"]}, schema=tables.USER_VOCABULARY)
    users = pl.DataFrame({c.USER: ["ann"], c.ATTRIBUTES: [attributes("x")]}, schema=tables.USERS)
    shown = items_as_data(item_vocabulary(), items()).with_columns(pl.lit("tense").alias(c.PROFILE))
    train = pl.DataFrame(
        {c.USER_INDEX: [0, 0], c.ITEM_INDEX: [0, 2], c.RATING: [4.0, 5.0], c.TIMESTAMP: [1, 2]},
        schema=tables.SPLIT_PART,
    )
    rows = users_as_data(vocabulary, users, shown, choose_pairs(train, vocabulary, shown, 3, 0))
    llm = LLMConfig(max_fallback_share=1.0)
    user_task = ProfileTask(rows, USER_VARIABLES, user_text_from_metadata(), llm, UserProfileConfig(), tmp_path)
    assert user_task.conversations()[0][-1]["content"] == '"Heat (1995)" 5: "tense"\n"Alien (1979)" 4: "tense"'
    profiles, _ = user_task.run(engine=Script(lambda *_: ("", "stop")))
    assert profiles[c.PROFILE].to_list() == ["genres x; enjoys Heat (1995); Alien (1979)", "nothing known"]


@pytest.mark.parametrize(
    ("text", "reason", "cause"),
    [
        ("", "stop", "empty"),
        ("   ", "length", "empty"),
        ('{"profile":"', "length", "cut_off"),
        ('{"profile":"a tale"          ', "length", "loop"),
        ("a tale", "stop", "not_json"),
        ('{"profile":"a tale of two","more":1}', "stop", "not_json"),
        ('{"profile":" "}', "stop", "empty"),
        ('{"profile":"ha ha ha ha ha ha"}', "stop", "loop"),
        ("", "too_long", "too_long"),
    ],
)
def test_each_way_to_fail_has_its_name(text: str, reason: Any, cause: str) -> None:
    assert read_profile(Answer("k", text, reason, 1, 1), 90) == (None, cause)


def test_a_usable_answer_is_tidied() -> None:
    assert read_profile(Answer("k", '{"profile":" a warm\\n tale "}', "stop", 1, 1), 90) == ("a warm tale", "")
    assert whole_words("a warm tale of frie", 19) == "a warm tale of"
    assert not loops("a warm, witty story of friends falling in love, for fans of romantic comedies and clever talk")


def test_a_text_that_an_old_ledger_kept_with_control_characters_is_given_without_them(tmp_path: Path) -> None:
    work = task(tmp_path, items())
    keys = conversation_keys(work.conversations(), work.llm, work.config)
    texts = ["a\x1b[31m red\x07 tale", "safe\u202egnp.exe", "zero\u200bwidth", "Amélie 天空 🦈"]
    rows = {"key": keys, "text": texts, "cause": [""] * 4, "prompt_tokens": [1] * 4, "output_tokens": [1] * 4}
    work.ledger.append(pl.DataFrame(rows))
    profiles, report = work.run(engine=Script(well))
    assert report["generated"] == 0
    assert profiles[c.PROFILE].to_list() == ["a [31m red  tale", "safegnp.exe", "zerowidth", "Amélie 天空 🦈"]
