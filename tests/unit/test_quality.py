"""Quality of texts: hand-computed cases, properties, and the whole way from a ledger to a comparison."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.report.source import Source
from darec.report.texts import texts
from darec.text import quality
from darec.text.judge import read_score
from darec.text.protocol import Answer
from darec.text.quality import Lift, Texts
from pipelines.cli import app
from schemas import columns as c
from stages.prompts import run_trial
from stages.text_quality import measure_prompt
from tests import report_samples
from tests.llm_stub import Handler, completion, send, stub
from tests.prompt_bench import bench_recipe, bench_settings, template


def unit(rows: Any) -> np.ndarray:
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_lift_of_a_hand_computed_case() -> None:
    """Items 0 and 1 are liked together by two users, 2 by one of them; each item has one text neighbour."""
    pairs = sparse.csr_array(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1]], np.float32))
    vectors = unit([[1, 0], [1, 0.1], [0, 1]])
    lift = quality.co_likes(vectors, pairs, 1)
    assert lift is not None
    # Neighbours: 0-1, 1-0, 2-1. Co-likes: 0: {1: 2, 2: 1}, 1: {0: 2, 2: 1}, 2: {0: 1, 1: 1}. Popularity 2, 2, 2.
    assert lift.observed.tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    assert lift.expected.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 2])
    assert quality.estimate(lift).value == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 1.5)


def test_random_texts_have_the_lift_of_chance_and_true_tastes_more() -> None:
    generator = np.random.default_rng(1)
    tastes, kinds = generator.standard_normal((600, 4)), generator.standard_normal((300, 4))
    fame = generator.exponential(1.0, 300)
    liked = np.argsort(-(tastes @ kinds.T + fame + generator.gumbel(size=(600, 300))), axis=1)[:, :20]
    rows = np.repeat(np.arange(600), 20)
    pairs = sparse.csr_array((np.ones(rows.size, np.float32), (rows, liked.ravel())), shape=(600, 300))
    random = [quality.co_likes(unit(generator.standard_normal((300, 8))), pairs) for _ in range(20)]
    chance = [quality.estimate(lift) for lift in random if lift is not None]
    assert np.mean([each.value for each in chance]) == pytest.approx(1.0, abs=0.03)
    assert sum(each.low < 1 < each.high for each in chance) >= 15, "intervals at 95%"

    good = quality.co_likes(unit(kinds), pairs)
    assert good is not None and random[0] is not None
    high = quality.estimate(good)
    change = quality.change(random[0], good)
    assert high.low > 1.3 and change.low > 0 and change.value == pytest.approx(high.value - chance[0].value)
    same = quality.change(good, good)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_nearest_is_what_a_full_sort_finds(count: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).standard_normal((count, 5)))
    near = quality.nearest(vectors, 3)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    expected = -np.sort(-cosines, axis=1)[:, : min(3, count - 1)]
    np.testing.assert_allclose(near.cosines, expected, atol=1e-6)
    assert all(row not in found for row, found in enumerate(near.rows.tolist()))


def test_repetition_duplicates_and_metadata_of_a_hand_computed_case() -> None:
    profiles = pl.Series(["a dark tale", "A dark tale", "warm and funny story", "a bright day"])
    vectors = unit([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    genres = ["Horror", "Horror, Crime", "Comedy", "Comedy"]
    attributes = pl.Series(c.ATTRIBUTES, [[{"name": "genres", "value": genre}] for genre in genres])
    texts = Texts(profiles, vectors, vectors, pl.Series([False, False, True, False]), pl.Series([5, 7, None, 6]))
    measured, lift = quality.measure(texts, sparse.csr_array((1, 4)), attributes)
    assert lift is None and measured.lift is None, "nothing is liked together"
    assert (measured.fallbacks, measured.tokens, measured.words) == (0.25, 6.0, 13 / 4)
    assert measured.near_duplicates == 0.5
    # Bigrams: (a dark, dark tale) twice, three of the third text, two of the fourth: 7 distinct of 9.
    assert measured.distinct_bigrams == pytest.approx(7 / 9)
    # All three others are neighbours of each row: what they share is what chance gives.
    assert measured.metadata == pytest.approx(1.0)
    nothing = quality.shared_values(pl.Series(c.ATTRIBUTES, [[], []], dtype=attributes.dtype))
    assert nothing.nnz == 0 and nothing.shape == (2, 2)


def test_agreement_is_spearmans_correlation_over_rows_that_have_both() -> None:
    lift = Lift(np.array([0.1, 0.2, np.nan, 0.4]), np.full(4, 0.1))
    correlation, p_value, rows = quality.agreement(np.array([1.0, 2.0, 5.0, 3.0]), lift)
    assert (correlation, rows) == (pytest.approx(1.0), 3) and 0 <= p_value <= 1
    assert np.isnan(quality.agreement(np.array([2.0, 2.0, 2.0, 2.0]), lift)[0]), "a constant score says nothing"


@pytest.mark.parametrize(
    ("text", "score"), [('{"score": 3}', 3), ('{"score": 9}', None), ("no", None), ("[]", None), ('"score"', None)]
)
def test_a_score_is_read_or_missing(text: str, score: int | None) -> None:
    assert read_score(Answer("k", text, "stop", 1, 1)) == score


def by_kind(request: dict[str, Any], handler: Handler) -> None:
    """A good profile of what a good prompt shows, the same profile for all of a bad one, and a judge's score."""
    prompt = request["messages"][-1]["content"]
    if "score" in json.dumps(request["response_format"]):
        send(handler, completion(json.dumps({"score": 5 if "and" in prompt.split("Profile:")[1] else 2})))
        return
    kind = "laughter, jokes and picnics" if "Picnic" in prompt else "ghosts, cellars and fear"
    text = f"an item like any other, number {prompt[-2:]}" if "Bad" in prompt else f"{kind} for number {prompt[-2:]}"
    send(handler, completion(json.dumps({"profile": text})))


def test_a_prompt_that_tells_kinds_from_one_another_measures_better(tmp_path: Path) -> None:
    with stub(by_kind) as server:
        recipe = bench_recipe(tmp_path, server.url)
        text = tmp_path / "text.j2"
        text.write_text("{% block text %}{{ profile }}{% endblock %}")
        sections = {
            "profile_items": recipe.profile_items.model_copy(
                update={"prompt": template(tmp_path / "bad.j2", "Bad {{ title }}")}
            ),
            "embed": recipe.embed.model_copy(update={"item_prompt": str(text)}),
        }
        recipe = recipe.model_copy(update=sections)
        store, new = Store(recipe.runtime.store), template(tmp_path / "new.j2", "{{ title }}")
        with pytest.raises(UserError, match="only 0 rows.*--ask-old"):
            measure_prompt(recipe, store, "profile_items", new)
        run_trial(recipe, store, "profile_items", new, "24", ask_old=True)
        asked = len(server.asked)
        report = measure_prompt(recipe, store, "profile_items", new)
        assert len(server.asked) == asked, "the LLM is not asked"

        old_quality, new_quality = report.old.quality, report.new.quality if report.new else None
        assert new_quality is not None and old_quality.lift is not None and new_quality.lift is not None
        assert report.change is not None and report.change.low > 0
        assert new_quality.lift.low > 1.3 and (new_quality.metadata or 0) > (old_quality.metadata or 0)
        assert (old_quality.rows, new_quality.fallbacks) == (24, 0.0)

        judged = measure_prompt(recipe, store, "profile_items", new, judge_prompt="prompts/judge.j2")
        assert judged.new is not None and judged.new.judged is not None and judged.old.judged is not None
        assert judged.new.judged.score == 5 and judged.old.judged.score == 2
        scored = len(server.asked)
        measure_prompt(recipe, store, "profile_items", new, judge_prompt="prompts/judge.j2")
        assert len(server.asked) == scored, "no text is judged twice"


def test_the_command_compares_in_the_terminal_and_as_json(tmp_path: Path) -> None:
    with stub(by_kind) as server:
        recipe = bench_recipe(tmp_path, server.url)
        new = template(tmp_path / "new.j2", "Bad {{ title }}")
        run_trial(recipe, Store(recipe.runtime.store), "profile_items", new, "24", ask_old=True)
        settings = [part for each in bench_settings(tmp_path, server.url) for part in ("--set", each)]
    command = ["prompt", "quality", "--prompt", new, "--recipe", str(tmp_path / "store.yaml"), *settings]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    shown = ended.stdout
    assert "co-like lift, new minus current: " in shown and "profile_items: 24 of 24 rows" in shown
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["old"]["quality"]["rows"] == 24 and found["change"]["low"] <= found["change"]["high"]


def test_the_report_of_a_run_has_the_quality_of_its_texts(tmp_path: Path) -> None:
    chosen = report_samples.recipe(tmp_path)
    keys = report_samples.run(chosen, "embed")
    [items, users] = texts(Source.of_run(Store(chosen.runtime.store), keys))
    facts = dict(items.measures)
    assert (items.stage, users.stage) == ("profile_items", "profile_users")
    assert facts["from metadata"] == "0.0%" and float(facts["co-like lift of neighbours"].split()[0]) > 1.5
