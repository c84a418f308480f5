"""`darec bench lists`: lists of all users."""

from typing import Annotated, Literal

import typer

from pipelines.show import Bars, print_plain


def lists(
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 32_768,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 50_000,
    width: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 32,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of a list.")] = 20,
    index: Annotated[Literal["flat", "ivf", "hnsw"], typer.Option(help="Index of the release.")] = "flat",
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds. The fastest one is reported.")] = 3,
) -> None:
    """Measure the number of lists per second and core, for several methods and for complete runs."""
    from benchmarks import lists as timing

    size = timing.Size(users, items, width, k)
    with Bars("lists") as bars:
        measured = timing.measure(size, index, rounds, bars)
    print_plain(timing.table(measured, size))
