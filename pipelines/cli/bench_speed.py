"""`darec bench speed`: darec and its peers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import DEFAULT_RECIPE
from pipelines.show import Bars, print_plain

_DATA = Path("data/benchmarks/beauty")


def speed(
    data: Annotated[Path, typer.Option("--data", help="Folder of a data set, or the recipe of a whole run.")] = _DATA,
    repeats: Annotated[int, typer.Option(min=1, help="Number of measured rounds.")] = 3,
    recbole: Annotated[bool, typer.Option(help="Also measure RecBole, installed into a separate environment.")] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads of each candidate.", show_default="all cores")
    ] = None,
    peers: Annotated[Path, typer.Option("--peers", help="Folder of the environment of RecBole.")] = Path("data/peers"),
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device on which darec trains and ranks.")] = "cpu",
) -> None:
    """Measure an epoch, an evaluation and the overhead of DaRec, compared with RecBole and the RLMRec scheme."""
    import torch

    from benchmarks import speed as timing
    from benchmarks.data import load_data
    from darec.common.device import pick

    place = pick(device, "--device")
    if threads:
        torch.set_num_threads(threads)
    source = data if data.exists() else DEFAULT_RECIPE
    loaded = load_data(source.stem, source, text=False)
    with Bars("speed") as bars:
        measured, growth = timing.measure(loaded, repeats, bars, peers.resolve() if recbole else None, place)
    print_plain(timing.table(measured, growth, loaded.interactions, place))
