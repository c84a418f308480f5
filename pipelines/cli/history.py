"""`darec history`: what became of the runs."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipelines.cli.options import JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.show import console
from schemas.night import Night

_COLOURS = {"published": "green", "refused": "red", "failed": "red"}


def history(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Number of runs.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """The last runs: when, what became of them, the release, recall, coverage, tokens and minutes."""
    from darec.report.nights import history as all_nights

    _, store = open_recipe(recipe, overrides)
    nights = all_nights(store.root)[-count:]
    if as_json:
        print_json([night.model_dump(mode="json") for night in nights])
        return
    console.print(_table(nights))


def _table(nights: list[Night]) -> Table:
    table = Table(title="Runs, the last at the end", title_justify="left")
    for name in ("when (UTC)", "outcome", "release", "recall", "coverage", "tokens", "minutes", "why"):
        numeric = name in ("recall", "coverage", "tokens", "minutes")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for night in nights:
        table.add_row(
            f"{night.started:%Y-%m-%d %H:%M}",
            Text(night.outcome, _COLOURS.get(night.outcome, "default")),
            night.release or "",
            _metric(night, "recall"),
            _metric(night, "coverage"),
            "" if night.tokens is None else f"{night.tokens:,}",
            "" if night.minutes is None else f"{night.minutes:.1f}",
            night.why,
        )
    return table


def _metric(night: Night, kind: str) -> str:
    """The metric at its greatest cutoff."""
    cutoffs = {int(name.partition("@")[2]): value for name, value in night.metrics.items() if name.startswith(kind)}
    value = cutoffs[max(cutoffs)] if cutoffs else None
    return "" if value is None else f"{value:.4f}"
