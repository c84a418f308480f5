"""`darec prompt`: tries a prompt before the pipeline runs with it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from darec.common.files import replace_text
from pipelines.cli.options import Commands, JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.reports import check_free
from pipelines.show import Bars, console
from pipelines.tables import print_table

if TYPE_CHECKING:
    from stages.text_quality import Report

app = Commands(help="Try prompts and measure their texts before a run.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="profile_items, profile_users, item_text or user_text.")
]


@app.callback()
def _group() -> None:
    """Prompts."""


@app.command("try")
def try_(
    name: NameArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="File of the new template.")],
    rows: Annotated[
        str, typer.Option("--rows", help="Rows to try: N for a random sample, id:A,B, or fallbacks.")
    ] = "30",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random sample.")] = 0,
    ask_old: Annotated[
        bool, typer.Option("--ask-old", help="Also request missing answers to the current prompt.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write an HTML page.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing HTML page.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Compare the current prompt with a new one on a few rows: prompt, tokens and text side by side.

    Only rows that are not in the row ledger are requested from the LLM. The answers are kept there, so a later run with
    the new prompt does not request them again. Nothing else is written.
    """
    from darec.report.trial import trial_page
    from pipelines.show_trial import print_trial
    from stages.prompts import run_trial

    if out is not None:
        check_free(out, overwrite)
    loaded, store = open_recipe(recipe, overrides)
    with Bars(name) as bars:
        tried = run_trial(loaded, store, name, prompt, rows, seed=seed, ask_old=ask_old, progress=bars)
    print_trial(tried)
    if out is not None:
        replace_text(out, trial_page(tried))
        console.print(f"Page: {out}")


@app.command()
def quality(
    name: NameArgument = "profile_items",
    prompt: Annotated[str | None, typer.Option("--prompt", help="New template, measured on the same rows.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=20, help="Maximum number of rows, drawn at random.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of sample and intervals.")] = 0,
    judge: Annotated[
        bool, typer.Option("--judge", help="Also request a score for each text from the LLM of the recipe.")
    ] = False,
    judge_prompt: Annotated[str, typer.Option("--judge-prompt", help="Template of the judge.")] = "prompts/judge.j2",
    as_json: JsonOption = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Measure the texts of a prompt, and of a new prompt on the same rows, without training.

    Reports fallbacks, length, repetition, near duplicates, agreement with metadata, and the co-like lift: how often the
    nearest neighbours by text are liked together in train, relative to what their popularity predicts. No texts are
    requested from the LLM: rows without an answer are left out (see `darec prompt try`).
    """
    from stages.text_quality import measure_prompt

    loaded, store = open_recipe(recipe, overrides)
    with Bars(name) as bars:
        options = {"most_rows": rows, "seed": seed, "judge_prompt": judge_prompt if judge else None, "progress": bars}
        found = measure_prompt(loaded, store, name, prompt, **options)

    if as_json:
        print_json(asdict(found))
    else:
        _print_quality(name, found)


def _print_quality(name: str, found: "Report") -> None:
    """Prints the measurements of one or two prompts, and the verdict on the change."""
    from darec.report.texts import table

    sides = [found.old, found.new] if found.new else [found.old]
    headings = ("", "current", "new")[: len(sides) + 1]
    print_table(f"{name}: {found.old.quality.rows:,} of {found.table:,} rows", headings, table(sides))
    if found.change is not None:
        change = found.change
        verdict = (
            "no significant difference" if change.low <= 0 <= change.high else "better" if change.value > 0 else "worse"
        )
        console.print(
            f"co-like lift, new minus current: {change.value:+.2f} ({change.low:+.2f} to {change.high:+.2f}): {verdict}"
        )
