"""The commands that ask and change releases, over a small store with two of them."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.bundle import Contents
from darec.serving.releases import Releases
from pipelines.cli import app
from tests.release_samples import GATE, contents, export


@pytest.fixture
def two_releases(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for seed in range(2):
        bundle = export(Store(tmp_path), _with_hostile_title(contents(seed=seed)), {"recall@20": 0.3 + seed / 100})
        Releases(tmp_path).publish(bundle.path, GATE)
    return tmp_path, [release.id for release in Releases(tmp_path).all()]


def _with_hostile_title(sample: Contents) -> Contents:
    titles = [f"[bold]{title} — ☃[/bold]" for title in sample.items["title"]]
    return Contents(sample.users, sample.items.with_columns(pl.Series("title", titles)), sample.seen)


def darec(store: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--set", f"runtime.store={store}"])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_recommend_shows_titles_as_they_are(two_releases):
    shown = darec(two_releases[0], "recommend", "--user", "u3", "--user", "u4", "-k", "4")
    assert len(re.findall(r"\[bold\]Title \d+ — ☃\[/bold\]", shown)) == 8
    assert "For user u3" in shown


def test_recommend_as_json_is_for_machines(two_releases):
    rows = json.loads(darec(two_releases[0], "recommend", "--user", "u3", "-k", "4", "--json"))
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"user_id", "rank", "item_id", "title", "score", "source"}


def test_recommend_takes_rules_from_options_and_from_the_recipe(two_releases, tmp_path):
    def items(*options: str) -> list[str]:
        rows = json.loads(darec(two_releases[0], "recommend", "--user", "u3", "-k", "50", "--json", *options))
        return [row["item_id"] for row in rows]

    everything = items("--seen")
    assert sorted(everything) == sorted(f"i{number}" for number in range(50))
    (tmp_path / "stock").write_text("i1\ni2\ni3\n")
    in_stock = ("--seen", "--in-stock", str(tmp_path / "stock"))
    assert items(*in_stock) == [item for item in everything if item in ("i1", "i2", "i3")]
    blocked = ("--block", "i1", "--set", "rules.blocked=[i2]")
    assert items(*in_stock, *blocked) == ["i3"], "an option adds to what the recipe blocks"
    assert items("--set", "rules.seen=true") == everything and set(items()) < set(everything)
    with pytest.raises(UserError, match=r"'brand' does not say NAME=N"):
        items("--at-most", "brand")
    with pytest.raises(UserError, match=r"at_most\.brand: Input should be greater than or equal to 1"):
        items("--at-most", "brand=0")


def test_recommend_writes_the_lists_of_all_users(two_releases, tmp_path):
    out = tmp_path / "out" / "lists"
    options = ("recommend", "--all", "--out", str(out), "--format", "csv", "-k", "4", "--partitions", "2")
    shown = darec(two_releases[0], *options, "--block", "i1")
    assert re.search(r"120 items for 30 users in [\d.]+ s: ", shown)
    tables = [pl.read_csv(path) for path in sorted(out.glob("part-*.csv"))]
    assert len(tables) == 2 and "i1" not in pl.concat(tables)["item_id"]
    one = json.loads(darec(two_releases[0], "recommend", "--user", "u3", "-k", "4", "--json", "--block", "i1"))
    assert pl.concat(tables).filter(user_id="u3")["item_id"].to_list() == [row["item_id"] for row in one]
    with pytest.raises(UserError, match="name users, histories, or all users"):
        darec(two_releases[0], "recommend", "-k", "4")
    both = ("--history", "i1,i2", "--user", "u3")
    with pytest.raises(UserError, match="--user and --history cannot be given together .* once for each"):
        darec(two_releases[0], "recommend", *both)
    with pytest.raises(UserError, match="--user and --all cannot be given together"):
        darec(two_releases[0], "recommend", "--all", "--user", "u3")
    with pytest.raises(UserError, match="contains other files than lists"):
        darec(two_releases[0], "recommend", "--all", "--out", str(tmp_path / "out"))
    with pytest.raises(UserError, match="several files in a folder.* --format csv"):
        darec(two_releases[0], "recommend", "--all", "--out", str(tmp_path / "lists.csv"))


def test_the_lists_in_a_folder_are_those_of_the_release_after_a_rollback(two_releases, tmp_path):
    store, (newest, oldest) = two_releases
    lists = ("--set", f"lists={{out: {tmp_path / 'lists'}, k: 3}}")
    darec(store, "recommend", "--all", *lists)
    shown = darec(store, "rollback", *lists)
    assert f"current: {oldest}" in shown and "lists: 30 users" in shown
    assert json.loads((tmp_path / "lists" / "manifest.json").read_text())["release"] == Releases(store).serving().name
    assert "lists" in darec(store, "promote", newest, *lists)


def test_similar_leaves_the_item_itself_out(two_releases):
    rows = json.loads(darec(two_releases[0], "similar", "--item", "i7", "-k", "49", "--json"))
    assert {row["item_id"] for row in rows} == {f"i{n}" for n in range(50)} - {"i7"}
    assert "Like item i7: [bold]Title 7" in darec(two_releases[0], "similar", "--item", "i7", "-k", "3")


def test_releases_rollback_promote_and_diff_tell_one_story(two_releases):
    store, (newest, oldest) = two_releases
    assert darec(store, "rollback", "--why", "complaints") == f"current: {oldest} (rolled back: {newest})\n"
    listed = json.loads(darec(store, "releases", "--json"))
    assert [(row["id"], row["state"]) for row in listed] == [(newest, "rolled back"), (oldest, "current")]
    assert listed[0]["why"] == "complaints"

    assert f"current: {newest}" in darec(store, "promote", newest)
    assert newest in darec(store, "releases")
    shown = darec(store, "diff", oldest, newest)
    assert re.search(r"recall@20.*0\.3000.*0\.3100.*\+3\.3%", shown)
    assert "the same configuration" in shown


def test_before_the_first_release_there_is_one_clear_line(tmp_path):
    assert "nothing has been published yet" in darec(tmp_path, "releases")
    for ask in (["recommend", "--user", "u1"], ["similar", "--item", "i1"]):
        with pytest.raises(UserError, match=r"nothing has been published yet .*darec run"):
            darec(tmp_path, *ask)
