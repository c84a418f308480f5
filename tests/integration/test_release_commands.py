import json
import re
import subprocess
import sys

import polars as pl
import pytest

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.bundle import Contents
from darec.serving.releases import Releases
from pipelines import release_commands as commands
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


def test_recommend_shows_titles_as_they_are(two_releases, capsys):
    commands.recommend(two_releases[0], ["u3", "u4"], 4)
    shown = capsys.readouterr().out
    assert len(re.findall(r"\[bold\]Title \d+ — ☃\[/bold\]", shown)) == 8
    assert "for user u3" in shown


def test_recommend_as_json_is_for_machines(two_releases, capsys):
    commands.recommend(two_releases[0], ["u3"], 4, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {"user_id", "rank", "item_id", "title", "score", "source"}


def test_similar_leaves_the_item_itself_out(two_releases, capsys):
    commands.similar(two_releases[0], "i7", 49, as_json=True)
    assert {row["item_id"] for row in json.loads(capsys.readouterr().out)} == {f"i{n}" for n in range(50)} - {"i7"}
    commands.similar(two_releases[0], "i7", 3)
    assert "like item i7: [bold]Title 7" in capsys.readouterr().out


def test_releases_rollback_promote_and_diff_tell_one_story(two_releases, capsys):
    store, (newest, oldest) = two_releases
    commands.rollback(store, why="complaints")
    commands.releases(store, as_json=True)
    said = capsys.readouterr().out
    assert said.startswith(f"current: {oldest} (rolled back: {newest})")
    listed = json.loads(said[said.index("[\n") :])
    assert [(row["id"], row["state"]) for row in listed] == [(newest, "rolled back"), (oldest, "current")]
    assert listed[0]["why"] == "complaints"
    commands.promote(store, newest)
    commands.releases(store)
    commands.diff(store, oldest, newest)
    shown = capsys.readouterr().out
    assert f"current: {newest}" in shown
    assert re.search(r"recall@20.*0\.3000.*0\.3100.*\+3\.3%", shown)
    assert "the same configuration" in shown


def test_before_the_first_release_there_is_one_clear_line(tmp_path, capsys):
    commands.releases(tmp_path)
    assert "nothing has been published yet" in capsys.readouterr().out
    for ask in (lambda: commands.recommend(tmp_path, ["u1"]), lambda: commands.similar(tmp_path, "i1")):
        with pytest.raises(UserError, match=r"nothing has been published yet .*darec run"):
            ask()


def test_listing_and_settling_releases_needs_no_heavy_import(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.release_commands import releases; import stages.publish\n"
        "releases(Path(sys.argv[1])); print(sorted({'faiss', 'torch', 'polars', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
