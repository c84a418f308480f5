"""`darec prompt`: what a prompt would do, before the pipeline runs with it."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import RecipeOption, SetOption, open_recipe
from pipelines.show import Bars, console

app = typer.Typer(help="Try prompts and measure their texts, before a run.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="profile_items, profile_users, item_text or user_text.")
]


@app.callback()
def _group() -> None:
    """Prompts."""


@app.command("try")
def try_(
    name: NameArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="The new template file.")],
    rows: Annotated[str, typer.Option("--rows", help="A number (a random sample), ids (id:a,b), or fallbacks.")] = "30",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random sample.")] = 0,
    ask_old: Annotated[
        bool, typer.Option("--ask-old", help="Also ask the LLM with the present prompt for rows that are not known.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write an HTML page.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an HTML page that --out names.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Show a few rows with the present prompt and with a new one: prompt, tokens and text side by side.

    The LLM is asked only for what the row ledger lacks. Its answers are kept there, so a later run with the new prompt
    does not ask again. Nothing else is written.
    """
    from darec.report.render import write_page
    from darec.report.trial import trial_page
    from pipelines.reports import check_free
    from pipelines.show_trial import print_trial
    from stages.prompts import run_trial

    if out is not None:
        check_free(out, overwrite)
    loaded, store = open_recipe(recipe, overrides)
    with Bars(name) as bars:
        tried = run_trial(loaded, store, name, prompt, rows, seed=seed, ask_old=ask_old, progress=bars)
    print_trial(tried)
    if out is not None:
        write_page(trial_page(tried), out)
        console.print(f"Page: {out}")
