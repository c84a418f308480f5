"""`darec prompt try`: a few rows under two prompts, paid for once, with a real server and a real store."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.report.trial import trial_page
from darec.text.trial import chosen_rows
from pipelines import show_trial
from pipelines.show_ui import trial_markdown
from stages.prompts import run_trial
from stages.walk import run
from tests.llm_stub import Handler, completion, send, stub, well
from tests.prompt_bench import bench_recipe, bench_settings, template
from tests.stores import ledger_keys

DAREC = Path(sys.executable).with_name("darec")


def files_of(store: Path) -> set[str]:
    """All files of a store but locks and the ledger."""
    return {str(path) for path in store.rglob("*") if path.is_file() and "ledger" not in path.parts} - {
        str(path) for path in store.rglob("*.lock")
    }


def test_new_rows_are_asked_once_and_nothing_but_the_ledger_is_written(tmp_path: Path) -> None:
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url)
        store, new = Store(recipe.runtime.store), template(tmp_path / "new.j2", "New {{ title }}")
        before = files_of(store.root)
        trial = run_trial(recipe, store, "profile_items", new, "5")
        assert trial.asked == len(server.asked) == 5
        assert all(prompt.startswith("New ") for prompt in server.prompts()), "the old prompt is not asked"
        assert [row.old.text for row in trial.rows] == [None] * 5
        assert all(row.new.text == f"a profile of {row.new.prompt[:15]}" for row in trial.rows)
        assert {(row.new.prompt_tokens, row.new.output_tokens) for row in trial.rows} == {(10, 5)}
        assert files_of(store.root) == before

        wider = run_trial(recipe, store, "profile_items", new, "8")
        assert wider.asked == 3 and {row.id for row in trial.rows} < {row.id for row in wider.rows}
        both = run_trial(recipe, store, "profile_items", new, "8", ask_old=True)
        assert both.asked == 8 and all(row.old.text != row.new.text for row in both.rows)

        # The later run with the new prompt finds what was paid for.
        used = recipe.model_copy(update={"profile_items": recipe.profile_items.model_copy(update={"prompt": new})})
        report = run(used, "profile_items")[-1].report
        assert (report.rows, report.from_ledger, report.generated) == (24, 8, 16)


def test_rows_of_a_trial_that_ended_before_their_retry_are_counted(tmp_path: Path) -> None:
    def unusable(request: dict[str, Any], handler: Handler) -> None:
        first = len(server.asked) <= 5
        send(handler, completion("not JSON") if first else {}, 200 if first else 401)

    with stub(unusable) as server:
        recipe = bench_recipe(tmp_path, server.url)
        store, new = Store(recipe.runtime.store), template(tmp_path / "new.j2", "New {{ title }}")
        with pytest.raises(UserError, match="refuses the key"):
            run_trial(recipe, store, "profile_items", new, "5")
        server.behave = well
        before = len(server.asked)
        trial = run_trial(recipe, store, "profile_items", new, "5")
    assert trial.asked == len(server.asked) - before == 5
    assert trial.report is not None and trial.report.tokens == 5 * 15


def test_rows_are_chosen_by_number_id_or_fallback(tmp_path: Path) -> None:
    def some_refuse(request: dict[str, Any], handler: Handler) -> None:
        if "Cellar 1" in request["messages"][-1]["content"]:
            send(handler, completion("I cannot help with that."))
        else:
            well(request, handler)

    with stub(some_refuse) as server:
        recipe = bench_recipe(tmp_path, server.url, "profile_items", max_fallback_share=1.0)
        store, new = Store(recipe.runtime.store), template(tmp_path / "new.j2", "New {{ title }}")
        server.behave = well
        named = run_trial(recipe, store, "profile_items", new, "id:i003, i000")
        assert [row.id for row in named.rows] == ["i000", "i003"]
        fallen = run_trial(recipe, store, "profile_items", new, "fallbacks")
        assert {row.title for row in fallen.rows} == {f"Haunted Cellar {n}" for n in (1, 11, 13, 15, 17, 19)}
        assert {row.old.cause for row in fallen.rows} == {"refused"}
        assert all(row.old.text and row.old.text.startswith("Haunted Cellar") for row in fallen.rows)
        assert {row.new.cause for row in fallen.rows} == {""}
        with pytest.raises(UserError, match="no row 'i0003'.*did you mean 'i003'"):
            run_trial(recipe, store, "profile_items", new, "id:i0003")

        users = run_trial(recipe, store, "profile_users", template(tmp_path / "u.j2", "{{ items | length }}"), "3")
        assert users.asked == 1, "three users of three items each have the same prompt"
        assert {row.new.prompt for row in users.rows} == {"3"} and all(row.id.startswith("u") for row in users.rows)


@pytest.mark.parametrize("wanted", ["", "0", "-3", "all", "½", "1.5"])
def test_what_chooses_no_rows_is_refused(wanted: str) -> None:
    with pytest.raises(UserError, match="does not select rows"):
        chosen_rows(pl.DataFrame({"item_id": ["a"]}), wanted)


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url, "ingest")
        new = template(tmp_path / "new.j2")
        with pytest.raises(UserError, match="stage split has no artifact.*darec run --until split"):
            run_trial(recipe, Store(recipe.runtime.store), "profile_items", new, "5")
        with pytest.raises(UserError, match="unknown variable 'items'"):
            run_trial(
                recipe, Store(recipe.runtime.store), "profile_items", template(tmp_path / "x", "{{ items }}"), "5"
            )


def test_outside_text_is_escaped_on_the_page_and_in_the_form(tmp_path: Path) -> None:
    def nasty(request: dict[str, Any], handler: Handler) -> None:
        send(handler, completion(json.dumps({"profile": "<script>alert(1)</script> | **bold** text"})))

    with stub(nasty) as server:
        recipe = bench_recipe(tmp_path, server.url)
        new = template(tmp_path / "new.j2", "<b>{{ title }}</b>", "<i>Other.</i>")
        trial = run_trial(recipe, Store(recipe.runtime.store), "profile_items", new, "2")
    page = trial_page(trial)
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page and "<i>Other" not in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"
    assert "\\<script\\> " not in trial_markdown(trial).replace("\\<script\\>alert", "")
    assert "<script" not in trial_markdown(trial).replace("\\<script", "")


def test_both_sides_fit_80_columns_and_lines_are_plain_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url)
        new = template(tmp_path / "new.j2", "New {{ title }}, " + "a long prompt " * 20, "Say it well.")
        trial = run_trial(recipe, Store(recipe.runtime.store), "profile_items", new, "3", ask_old=True)
    for terminal, width in ((True, 80), (False, 200)):
        file = io.StringIO()
        colours = {"color_system": None, "markup": False, "soft_wrap": not terminal}
        screen = Console(file=file, force_terminal=terminal, width=width, **colours)  # type: ignore[arg-type]
        monkeypatch.setattr(show_trial, "console", screen)
        show_trial.print_trial(trial)
        shown = file.getvalue()
        if terminal:
            assert max(len(line.rstrip()) for line in shown.splitlines() if "/" not in line) <= 80
            assert "old" in shown and "new" in shown
        else:
            assert "  new: 10 + 5 tokens" in shown
            assert "  old: a profile of " in shown and "  new: system: Say it well." in shown


def test_the_text_templates_are_tried_without_an_llm(tmp_path: Path) -> None:
    with stub(well) as server:
        recipe = bench_recipe(tmp_path, server.url, "profile_items")
        server.asked.clear()
        path = tmp_path / "text.j2"
        path.write_text("{% block text %}{{ title }}! {{ profile }}{% endblock %}")
        with pytest.raises(UserError, match="stage profile_users has no artifact"):
            run_trial(recipe, Store(recipe.runtime.store), "item_text", str(path), "4")
        run(recipe, "profile_users")
        server.asked.clear()
        trial = run_trial(recipe, Store(recipe.runtime.store), "item_text", str(path), "4")
        assert not server.asked and len(trial.rows) == 4
        assert all((row.new.text or "").startswith(f"{row.title}! a profile of ") for row in trial.rows)
        counts = [row.new.prompt_tokens for row in trial.rows]
        assert all(count is not None and 5 < count < 40 for count in counts)


def test_the_command_prints_plain_lines_and_writes_a_page(tmp_path: Path) -> None:
    with stub(well) as server:
        bench_recipe(tmp_path, server.url)
        new = template(tmp_path / "new.j2", "New {{ title }}")
        settings = [part for each in bench_settings(tmp_path, server.url) for part in ("--set", each)]
        command = [DAREC, "prompt", "try", "profile_items", "--prompt", new, "--rows", "4", "--out", "page.html"]
        command += ["--recipe", str(tmp_path / "store.yaml"), *settings]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "4 prompts were sent to the LLM" in done.stdout and "\x1b" not in done.stdout
        assert (tmp_path / "page.html").read_text().lstrip().startswith("<!doctype html>")
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert again.returncode == 2 and "the file exists" in again.stderr
        assert len(ledger_keys(tmp_path / "store" / "ledger" / "profiles.sqlite")) == 4
