"""`darec history`: the last runs and their outcomes."""

from decimal import Decimal
from typing import Annotated, Any

import typer

from pipelines.cli.options import JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.tables import print_table
from schemas.night import Night


def history(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Number of runs.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """List the last runs: outcome, release, recall, coverage, tokens, minutes and reason."""
    from darec.report.nights import history as all_nights

    _, store = open_recipe(recipe, overrides)
    nights = all_nights(store.root)[-count:]
    if as_json:
        print_json([night.model_dump(mode="json") for night in nights])
        return

    names = ("when (UTC)", "outcome", "release", "recall", "coverage", "tokens", "minutes", "why")
    print_table("Runs, newest last", names, map(_row, nights), text="why", empty="No run has ended yet")


def _row(night: Night) -> tuple[Any, ...]:
    return (
        f"{night.started:%Y-%m-%d %H:%M}",
        night.outcome,
        (night.release or "").rpartition("-")[2],
        _metric(night, "recall"),
        _metric(night, "coverage"),
        night.tokens,
        None if night.minutes is None else Decimal(f"{night.minutes:.1f}"),
        night.why,
    )


def _metric(night: Night, kind: str) -> float | None:
    """The metric at its greatest cutoff."""
    cutoffs = {int(name.partition("@")[2]): value for name, value in night.metrics.items() if name.startswith(kind)}
    return cutoffs[max(cutoffs)] if cutoffs else None
