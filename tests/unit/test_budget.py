"""Limits of a run: they stop asking, keep all answers, and the next run goes on; with both engines' ways to work."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from darec.artifacts.store import Store
from darec.common.errors import LimitError
from darec.common.warnings import collected
from darec.report.nights import last_night
from darec.text.budget import Budget, one_run
from darec.text.engine import EngineSettings, OfflineEngine
from darec.text.protocol import Answer, Request
from pipelines.cli import guarded
from pipelines.direct import run_directly
from schemas.semantic import LLMConfig
from stages.plan import plan
from stages.walk import run
from tests.llm_stub import Handler, completion, profile, send, stub, well
from tests.prompt_bench import bench_recipe, template


def requests(count: int, content: str = "x" * 25) -> list[Request]:
    return [Request(str(n), ({"role": "user", "content": content},), 0, 0.0) for n in range(count)]


def test_a_budget_counts_open_rows_with_what_a_row_took() -> None:
    budget = Budget(LLMConfig(max_tokens_per_run=100), max_tokens=20)
    open_rows = iter(budget.ration(requests(50)))
    assert [next(open_rows).key for _ in range(3)] == ["0", "1", "2"], "10 + 20 estimated tokens each"
    budget.answered(Answer("0", "", "stop", 5, 5))
    rest = [request.key for request in open_rows]
    assert rest == ["3", "4", "5", "6", "7", "8", "9"] and budget.reached, "10 + 2 open * 10 + 7 * 10 is the limit"
    with pytest.raises(LimitError, match=r"used 10 tokens.*40 rows are left.*max_tokens_per_run 100.*kept"):
        budget.stop(40)


def test_a_first_chunk_whose_text_has_many_tokens_stays_within_the_limit() -> None:
    """Two and a half characters of English to a token with the chat template, or one of Japanese; 20 tokens out."""
    for content in ("x" * 25, "寿" * 10):
        budget = Budget(LLMConfig(max_tokens_per_run=200), max_tokens=20)
        chunk = list(budget.ration(requests(50, content)))  # all are requested before the first answer
        for request in chunk:
            budget.answered(Answer(request.key, "", "stop", 10, 20))
        assert 120 <= budget.spending.tokens <= 200


def test_money_is_counted_at_the_prices_of_the_recipe() -> None:
    llm = LLMConfig(max_cost_per_run=1.0, price_per_million_input=1000, price_per_million_output=10_000)
    budget = Budget(llm, max_tokens=10)
    asked = list(budget.ration(requests(50)))
    assert len(asked) == 9, "0.11 each by the estimate"
    with pytest.raises(LimitError, match=r"price 0.*max_cost_per_run 1"):
        budget.stop(50)


def test_without_a_limit_nothing_is_held_back_and_one_row_is_always_asked() -> None:
    budget = Budget(LLMConfig(), 10)
    assert len(list(budget.ration(requests(50)))) == 50
    budget.stop(0)
    small = Budget(LLMConfig(max_tokens_per_run=1), 10)
    assert [request.key for request in small.ration(requests(50))] == ["0"]


@pytest.mark.parametrize(
    ("limit", "rows"),
    [({"max_tokens_per_run": 100}, 3), ({"max_cost_per_run": 0.1, "price_per_million_output": 1000}, 5)],
)
def test_answers_of_a_server_that_reports_no_tokens_count_with_their_estimate(limit: dict[str, Any], rows: int) -> None:
    budget, asked = Budget(LLMConfig(**limit), max_tokens=20), 0
    with collected() as warnings:
        for request in budget.ration(requests(50)):  # 10 + 20 estimated tokens each
            budget.answered(Answer(request.key, "a text", "stop", 0, 0))
            asked += 1
    assert asked == rows and budget.reached
    assert len(warnings) == 1 and "reports no numbers of tokens" in warnings[0]


def test_rows_that_the_model_has_not_answered_count_nothing() -> None:
    budget = Budget(LLMConfig(max_tokens_per_run=30), max_tokens=20)
    for request in budget.ration(requests(50)):
        budget.answered(Answer(request.key, "", "too_long", 0, 0))
    assert budget.spending.tokens == 0 and not budget.reached


def test_a_run_with_a_server_that_reports_no_tokens_stops_at_the_limit(tmp_path: Path) -> None:
    def behave(request: dict[str, Any], handler: Handler) -> None:
        send(handler, completion(profile(request), usage=None))

    with stub(behave) as server:
        recipe = bench_recipe(tmp_path, server.url, max_tokens_per_run=300, concurrency=1)
        with one_run(), pytest.raises(LimitError, match="rows are left"):
            run(recipe, "profile_items")
    assert 1 < len(server.asked) < 24


def test_stages_of_one_run_share_its_limit() -> None:
    llm = LLMConfig(max_tokens_per_run=100)
    with one_run() as spending:
        Budget(llm, 10).answered(Answer("0", "", "stop", 60, 30))
        assert spending.tokens == 90 and not list(Budget(llm, 10).ration(requests(5)))
    assert list(Budget(llm, 10).ration(requests(5)))


def test_a_run_stops_at_the_limit_keeps_all_answers_and_goes_on_the_next_night(tmp_path: Path) -> None:
    """24 items of 10 + 5 tokens: 11 of them are 165 tokens. Up to 4 are open at once."""
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url, max_tokens_per_run=165, concurrency=4)
        store = Store(recipe.runtime.store)
        nights = []
        for _ in range(2):
            assert guarded(lambda: run_directly(recipe, "profile_items", ())) == 130, "as after Ctrl-C"
            nights.append(len(server.asked))
            night = last_night(store.root)
            assert night is not None and night.outcome == "partial"
            assert night.tokens == 15 * (nights[-1] - sum(nights[-2:-1])), "what the night has paid"
        assert 8 <= nights[0] <= 11 and nights[0] + 8 <= nights[1] <= 22
        step = next(step for step in plan(recipe, store, "profile_items") if step.task.name == "profile_items")
        assert step.rows == 24 - nights[1] and step.cost.tokens == 15 * step.rows
        report = run_directly(recipe, "profile_items", ())[-1].report
        assert (report.from_ledger, report.generated) == (nights[1], 24 - nights[1])
        assert len(server.prompts()) == len(set(server.prompts())) == 24, "no row is paid for twice"


def test_the_limit_holds_over_both_profile_stages(tmp_path: Path) -> None:
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url, max_tokens_per_run=24 * 15 + 120, concurrency=1)
        with one_run(), pytest.raises(LimitError, match="rows are left"):
            run(recipe, "profile_users")
        assert 24 < len(server.asked) <= 32


def test_the_plan_and_a_trial_say_what_the_table_would_cost(tmp_path: Path) -> None:
    from stages.costs import cost_lines
    from stages.prompts import run_trial

    with stub(well) as server:
        prices = {"price_per_million_input": 1, "price_per_million_output": 4, "max_tokens_per_run": 100}
        recipe = bench_recipe(tmp_path, server.url, **prices)
        store = Store(recipe.runtime.store)
        new = template(tmp_path / "new.j2", "New {{ title }}")
        trial = run_trial(recipe, store, "profile_items", new, "4")
    first, second = trial.notes
    assert first.startswith("the rest of the table: 20 rows, about ") and "100 output tokens" in first
    assert " minutes, price 0.0006" in first and second == "this exceeds the limit of one run: about 4 runs are needed"
    steps = plan(recipe, store, "profile_items")
    [line, *_] = cost_lines([(step.task.name, step.rows or 0, step.cost) for step in steps], recipe.llm)
    [sampled, *_] = cost_lines([("profile_items", "about 100,000", step.cost) for step in steps], recipe.llm)
    assert sampled.startswith("profile_items: about 100,000 rows, about ")
    assert line.startswith("profile_items: 24 rows, about") and "960 output tokens" in line, "40 at most for each"


def _answers(chunk: Sequence[Request], *_: Any) -> list[Answer]:
    return [Answer(request.key, "", "stop", 5, 5) for request in chunk]


class Offline(OfflineEngine):
    """Real worker processes that answer at once."""

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        for _, answers in self._spread(_answers, requests):
            yield answers


def test_the_offline_engine_begins_no_chunk_beyond_the_limit(tmp_path: Path) -> None:
    settings = EngineSettings("", "generate", "float32", 512, 8, 64, 0, 0.0, False, workers=2, chunk=4, gpu=False)
    engine = Offline(settings)
    engine._pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    budget = Budget(LLMConfig(max_tokens_per_run=200), max_tokens=5)
    with engine:
        answered = []
        for answers in engine.generate(budget.ration(requests(100)), {}, 5):
            for answer in answers:
                budget.answered(answer)
                answered.append(answer.key)
    assert budget.reached and budget.spending.tokens <= 200
    assert len(answered) == len(set(answered)) and 12 <= len(answered) <= 20
    assert answered, "what was begun is answered"
