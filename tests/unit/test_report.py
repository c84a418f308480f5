import shutil
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from darec.artifacts import files
from darec.artifacts.store import Store
from darec.common.charts import Chart, Series, line_chart, scatter
from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.report import quality
from darec.report.collect import collect
from darec.report.content import Absent, DataNotes, Panel, TextGain
from darec.report.costs import merged
from darec.report.render import change, number, render
from darec.report.source import Source, rows_at_ranks
from darec.serving import candidates
from darec.serving.releases import Releases
from pipelines.reports import report_run, write_report
from pipelines.show import remark_lines
from schemas.reports import GraphReport, IngestReport, Loss, ProfileReport, SplitReport, StageReport
from stages.execute import Result
from tests.report_samples import HOSTILE, recipe, run

PLAIN = {"train": {"epochs": 4, "eval_every": 2, "dim": 8, "alignment": []}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One night without text."""
    chosen = recipe(tmp_path_factory.mktemp("plain"), **PLAIN)
    return Store(chosen.runtime.store), run(chosen)


@pytest.fixture(scope="module")
def content(nights):
    store, _, second = nights
    return collect(Source.of_run(store, second))


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_markup_in_the_data_stays_text(content):
    page = render(content)
    tags = Tags(page)
    assert page.count("&lt;script&gt;alert(") >= 5  # a neighbour, a history, an LLM sample, the encoder's, the map
    assert not {"script", "img", "iframe", "link", "object"} & set(tags.tags)
    assert not any(name.startswith("on") or name == "src" for name in tags.attributes)
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:8000/v1", "")


def test_control_characters_do_not_reach_the_page(content):
    line = Series("a\x00\x9bb\u202e", ((0, 1.0), (1, 2.0)))
    page = render(type(content)(**{**vars(content), "curves": (Chart("t\x1b", "epoch", (line, line)),)}))
    assert not any(unicodedata.category(character) == "Cc" and character not in "\n\t" for character in page)
    assert r"a\u0000\u009bb\u202e" in page and "\u202e" not in page


def test_metrics_stand_beside_the_reference_and_popularity(content, nights):
    store, _, _ = nights
    metrics = content.metrics
    assert metrics.models == ("this model", "without text", "popularity")
    row = next(row for row in metrics.main if row.name == "ndcg@20")
    source = Source.of_release(store, Releases(store.root).all()[0])
    found = source.metrics
    assert row.values == (
        found.test["ndcg@20"],
        found.reference["ndcg@20"],
        found.popularity["ndcg@20"],
    )
    assert row.p_value == found.significance["ndcg@20"].wilcoxon
    assert [row.name for row in metrics.main][:2] == ["recall@20", "ndcg@20"]
    assert {row.name.rpartition("@")[2] for row in metrics.others} == {"5", "10"}


def test_the_worth_of_texts_has_intervals_and_a_verdict(content, nights):
    store, _, second = nights
    found, gains = Source.of_run(store, second).metrics, content.text_gains
    everything, *groups = gains.rows
    assert everything.recalls == tuple(each["recall@20"] for each in (found.test, found.reference, found.popularity))
    assert everything.interval == found.significance["recall@20"].interval
    assert everything.pairs == sum(row.pairs for row in groups) > 0
    page = render(content)
    assert "What the texts are worth" in page and gains.verdict in page

    def verdict(*intervals):
        rows = (TextGain(name, 1, (), interval) for name, interval in zip("abc", intervals, strict=True))
        return quality._verdict(tuple(rows))

    assert verdict((-0.1, 0.2), None, (0.0, 0.1)).startswith("No group has a significant difference")
    assert "better for a, c and worse for b;" in verdict((0.1, 0.2), (-0.2, -0.1), (0.3, 0.4))


def test_a_page_names_the_choice_of_a_search(tmp_path):
    chosen = recipe(tmp_path, search={"candidates": {"as it is": {}, "other": {"seed": 5}}, "epochs": 1})
    page = render(collect(Source.of_run(Store(chosen.runtime.store), run(chosen))))
    assert "the first search with these settings" in page and "validation Recall@20: " in page


def test_a_page_says_how_close_the_lists_of_an_index_are(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "FEW_LISTS", 1.0)  # with few items an index searches most of its lists
    chosen = recipe(tmp_path, evaluate={"candidates": "index"})
    source = Source.of_run(Store(chosen.runtime.store), run(chosen))
    found, page = source.metrics.candidates, render(collect(source))
    assert f"{found['found']:.1%} of the exact lists of {found['users']:,.0f} sampled users" in page
    assert f"recall@20 is {found['recall@20']:.4f} and exactly {found['exact recall@20']:.4f}" in page


def test_other_models_are_shown_as_the_gate_measured_them_on_the_same_test(tmp_path):
    chosen = recipe(tmp_path, gate={"minimums": {}, "tolerances": {"ndcg@20": 1.0}})
    run(chosen)
    reseeded = recipe(tmp_path, gate={"minimums": {}, "tolerances": {"ndcg@20": 1.0}}, train=OTHER_SEED)
    second = run(reseeded)
    source = Source.of_run(Store(chosen.runtime.store), second)
    content = collect(source)
    [current, reference] = content.metrics.same_test
    assert current[0] == f"{source.release.judged_against}, then in production" and reference[0] == "without text"
    page = render(content)
    found = source.release.evidence.current.metrics["ndcg@20"]
    assert "On the same test interactions" in page and "40 of 40" in page
    assert f"{found.low:+.4f} to {found.high:+.4f}" in page


OTHER_SEED = {"epochs": 4, "eval_every": 2, "dim": 8, "seed": 1}


def test_lost_rows_doubts_and_cold_items_are_said_on_the_page_and_after_the_run(content):
    ingest = IngestReport(rows_in=1000, lost={"no item id": Loss(rows=12, example="'' in row 7")}, doubts=("odd",))
    split = SplitReport(test_cold_users=0, test_cold_items=3)
    profiles = ProfileReport(rows=60, from_metadata=9, causes={"loop": 7, "filtered": 2})
    results = [
        Result(name, "cached", (), None, report)
        for name, report in {
            "ingest": ingest,
            "split": split,
            "profile_items": profiles,
            "graph": GraphReport(),
        }.items()
    ]
    assert remark_lines(results) == [
        "ingest: 12 of 1,000 rows are lost: no item id, such as '' in row 7",
        "ingest: odd",
        "split: the test has 3 items without train interactions",
        "profile_items: 9 of 60 texts come from metadata, not from the LLM (filtered 2, loop 7)",
    ]
    page = render(replace(content, data=DataNotes(("comma-separated",), ingest.remarks)))
    assert "<li>12 of 1,000 rows are lost: no item id, such as &#39;&#39; in row 7</li>" in page
    assert "<li>comma-separated</li>" in page


def test_drift_counts_what_came_and_how_popularity_moved(content):
    before = 40 * 12
    sets = {row.name: (row.before, row.after, row.new, row.gone) for row in content.drift.sets}
    assert sets == {
        "users": (40, 41, 1, 0),
        "items": (24, 25, 1, 0),
        "interactions": (before, before + 4, 4, 0),
    }
    # i001, i003, i000 and i777 rise by 1 / 484 less what the others' growth takes; the 21 others lose
    gain = [21 / 484 - 20 / 480] * 3 + [1 / 484]
    assert content.drift.shift == pytest.approx(sum(gain))
    assert content.drift.rising[0] == ("i777", 0.0, pytest.approx(1 / 484))
    assert len(content.drift.rising) == 4
    assert all(after < before for _, before, after in content.drift.falling)


def test_the_first_release_has_no_drift_and_its_gate_stood_alone(nights):
    store, first, _ = nights
    content = collect(Source.of_run(store, first))
    assert content.drift == Absent("there is no previous release")
    assert "Left out: there is no previous release." in render(content)
    assert content.metrics.models == ("this model", "without text", "popularity")
    assert content.headline.state == "published"
    assert not content.headline.current  # that of the second night is


def test_neighbours_by_text_and_by_training(content, nights):
    store, _, second = nights
    source = Source.of_run(store, second)
    text = source.read(files.TEXT_VECTORS).item.astype(np.float64)
    item = content.neighbours[0]
    row = int(np.argsort(source.items["train_count"].to_numpy(), kind="stable")[-1])
    assert item.title == source.items["title"][row]
    cosines = text @ text[row] / np.linalg.norm(text, axis=1) / np.linalg.norm(text[row])
    best = [other for other in np.argsort(-cosines) if other != row][:5]
    assert [title for title, _ in item.before] == [source.items["title"][int(other)] for other in best]
    assert [cosine for _, cosine in item.before] == pytest.approx(cosines[best], abs=1e-5)
    assert len(item.after) == 5


def test_the_map_shows_every_item_once_a_space_in_the_colours_of_its_genre(content, nights):
    store, _, second = nights
    items = Source.of_run(store, second).items
    assert (content.map.coloured_by, content.map.groups) == (
        "first of genres",
        ((0, "Comedy"), (1, "Horror"), (7, "other")),
    )
    assert [panel.title for panel in content.map.panels] == ["by text vector", "by trained vector"]
    for panel in content.map.panels:
        groups = [group for _, _, group, _ in panel.points]
        assert groups == [7 if item == "i777" else int(item[1:]) % 2 for item in items["item_id"]]
        assert 0 < panel.explained <= 1
    even, odd = ([x for x, _, group, _ in content.map.panels[0].points if group == side] for side in (0, 1))
    assert max(min(even), min(odd)) > min(max(even), max(odd))  # text tells the genres apart: so does the first axis


def test_users_histories_are_theirs_and_recommendations_are_unseen(content, nights):
    store, _, second = nights
    source = Source.of_run(store, second)
    interactions = source.read(files.INTERACTIONS)
    titles = dict(source.items.select("item_id", "title").iter_rows())
    for viewer in content.viewers:
        known = {titles[item] for item in interactions.filter(user_id=viewer.user)["item_id"]}
        assert {title for title, _ in viewer.history} <= known
        assert not {title for title, *_ in viewer.recommended} & (known - {HOSTILE})  # two items have that title
        assert viewer.profile == f"Profile of {viewer.user}"
        reasons = [reason for *_, reason in viewer.recommended]
        assert all(any(title in reason for title in known) for reason in reasons) or viewer.source == "popularity"
        whens = [when for _, when in viewer.history]
        assert whens == sorted(whens, reverse=True)
    assert content.viewers[0].interactions >= content.viewers[-1].interactions


def test_llm_facts_samples_and_tokens(content):
    items, _, embed = content.generation
    assert ("causes", "length 2, not json 1") in items.facts
    assert ("prompt tokens", 1000) in items.facts
    assert items.samples[0].prompt == f"Item: {HOSTILE}"
    assert embed.samples[0].prompt is None
    tokens = {cost.stage: cost.tokens for cost in content.costs}
    assert (tokens["profile_items"], tokens["train"]) == (1234, None)
    assert list(tokens) == list(dict.fromkeys(tokens))
    assert list(tokens)[:2] == ["ingest", "split"]


def test_curves_carry_both_models_and_the_epoch_kept(content):
    charts = {chart.title: chart for chart in content.curves}
    validation = charts["validation recall@20"]
    assert [line.name for line in validation.series] == ["this model", "without text"]
    assert [x for x, _ in validation.series[0].points] == [2.0, 4.0]
    assert validation.mark in (2, 4)
    assert len(charts["loss: ranking"].series[0].points) == 4


def test_a_recipe_without_text_leaves_out_what_it_has_not(plain):
    content = collect(Source.of_run(*plain))
    assert content.generation == Absent("the recipe does not use text")
    assert content.metrics.models == ("this model", "popularity")
    assert isinstance(content.neighbours[0].before, Absent)
    assert [panel.title for panel in content.map.panels] == ["by trained vector"]
    assert "the recipe does not use text" in render(content)


def test_a_run_that_stopped_early_shows_what_there_is(plain):
    store, keys = plain
    early = {stage: keys[stage] for stage in ("ingest", "split", "graph", "train")}
    content = collect(Source.of_run(store, early))
    assert content.headline.name == f"train-{keys['train']}"
    assert content.headline.state == "not gated"
    assert content.metrics == Absent("this run had no stage evaluate")
    assert not isinstance(content.curves, Absent)
    assert "not gated" in render(content)


def test_removed_artifacts_cost_their_section_only(plain, tmp_path):
    shutil.copytree(plain[0].root, tmp_path / "store", symlinks=True)
    store = Store(tmp_path / "store")
    store.remove(store.latest("train"))
    content = collect(Source.of_release(store, Releases(store.root).all()[0]))
    assert content.curves == Absent("the artifact of train was removed to free space")
    assert not isinstance(content.metrics, Absent)
    assert "train" not in {cost.stage for cost in content.costs}
    assert render(content)


def test_the_command_writes_the_newest_or_the_named_release(nights, tmp_path):
    store, _, _ = nights
    newest, oldest = Releases(store.root).all()
    assert write_report(store) == store.root / "reports" / f"{newest.id}.html"
    assert oldest.id in write_report(store, oldest.id, tmp_path / "deep" / "r.html").read_text()
    with pytest.raises(UserError, match="no release"):
        write_report(Store(tmp_path))
    with pytest.raises(UserError, match="names no release"):
        write_report(store, "1999")


def test_equal_artifacts_give_equal_pages(nights):
    store, _, second = nights
    pages = [render(collect(Source.of_run(store, second))) for _ in range(2)]
    assert digest(pages[0]) == digest(pages[1])


def test_a_run_with_nothing_to_do_leaves_its_report_alone(nights):
    store, _, second = nights
    results = [Result(stage, "cached", (), store.artifact(stage, key), StageReport()) for stage, key in second.items()]
    path = report_run(store, [*results, Result("publish", "published", (), None, StageReport())])
    path.write_text("as it was")
    assert report_run(store, results).read_text() == "as it was"

    worked = [*results[:-1], replace(results[-1], state="done")]
    assert report_run(store, worked).read_text() != "as it was"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.12345, "0.1235"), (1234567, "1,234,567"), (25.04, "25.0"), ("x", "x")]
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_changes():
    assert change(0.11, 0.10) == "+10.0%"
    assert change(-0.2, -0.1) == "-100.0%"
    assert (change(None, 0.1), change(0.1, None), change(0.0, 0.0), change(0.5, 0)) == ("", "", "±0", "+0.5000")


def test_spread_takes_distinct_rows_by_rank():
    assert rows_at_ranks(np.array([5, 1, 9, 7]), (1.0, 0.5, 0.0)) == [2, 3, 1]
    assert rows_at_ranks(np.array([3]), (1.0, 0.0)) == [0]
    assert rows_at_ranks(np.array([], np.int64), (1.0,)) == []


def test_charts_hold_odd_numbers():
    flat = line_chart(Chart("<b>", "epoch", (Series("&", ((1, 0.5),)),), mark=1))
    assert "<b>" not in flat and "nan" not in flat
    assert line_chart(Chart("none", "epoch", ())) == ""
    same = scatter(Panel("p", ((0.0, 0.0, 0, "</title><script>"), (0.0, 0.0, 0, "b")), explained=1.0))
    assert "<script>" not in same and "nan" not in same
    tiny = line_chart(Chart("t", "epoch", (Series("a", ((1, 1e-12), (2, 3e-12))),)))
    assert tiny.count("polyline") == 1


def test_moments_are_utc(content):
    assert content.headline.made.utcoffset() == datetime.now(UTC).utcoffset()


def test_a_change_that_several_stages_share_is_one_line():
    stages = ["train.config.train.epochs: 80 -> 10", "refit.config.train.epochs: 80 -> 10"]
    others = ["refit.config.train.refit: none -> all", "embed.extra.model: a -> b"]
    assert merged([*stages, *others]) == (
        "train.epochs: 80 -> 10 (train, refit)",
        "train.refit: none -> all (refit)",
        "embed.extra.model: a -> b",
    )
