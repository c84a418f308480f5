"""Options that several subcommands of `darec bench` share, opening a grid, and writing tables."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.files import check_writable
from darec.common.recipes import load
from pipelines.show import print_plain
from schemas.bench import BenchRecipe

if TYPE_CHECKING:
    from benchmarks.grid import Entry
    from benchmarks.runs import Run

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe of the benchmark: see configs/bench/.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="Add or replace a data set: NAME=FOLDER or NAME=RECIPE.yaml. May be repeated."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one value of the recipe: field.path=value. May be repeated.")
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help="Use only these data sets, backbones or alignments, separated by commas."),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Use only these seeds, such as 0,1,2.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the store that keeps finished runs.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for tables and plots.", show_default="data/bench/NAME")
]

BENCH = Path("data/bench")
LIGHTGCN_RECIPE = Path("configs/movielens-lightgcn.yaml")  # what the tables of nights, refits and dislikes are about
STORE = BENCH / "store"
TABLE = "table.md"


@dataclass(frozen=True)
class Grid:
    """The part of a benchmark that the options of a subcommand select."""

    recipe: BenchRecipe
    runs: list["Run"]
    store: Store
    folder: Path
    """Folder for tables and plots."""


def grid_command(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a subcommand of a function that takes a `Grid` and, by keyword, options of its own.

    The subcommand has the options that select a grid, and then those of the function.
    """

    def opened(
        recipe: RecipeArgument,
        data: DataOption = None,
        overrides: SetOption = None,
        only: OnlyOption = None,
        seeds: SeedsOption = "",
        store: StoreOption = STORE,
        out: OutOption = None,
        **own: Any,
    ) -> None:
        loaded, runs = open_grid(recipe, data, overrides, only, seeds)
        folder = out or BENCH / loaded.name
        check_writable(folder / TABLE)
        command(Grid(loaded, runs, Store(store), folder), **own)

    *shared, _ = inspect.signature(opened).parameters.values()
    _, *own = inspect.signature(command).parameters.values()
    opened.__signature__ = inspect.Signature([*shared, *own])  # read by Typer
    opened.__name__, opened.__doc__ = command.__name__, command.__doc__
    return opened


def open_grid(
    path: Path, data: list[str] | None, overrides: list[str] | None, only: list[str] | None, seeds: str
) -> tuple[BenchRecipe, list["Run"]]:
    """The recipe and the wanted runs, each with its data.

    Args:
        path: of the recipe.
        data: `NAME=PLACE` of data sets.
        overrides: `field=value` overrides of the recipe.
        only: groups of names, such as `yelp` or `sgl,gccf`; an entry is run if it has a name of each group.
        seeds: such as `0,1`, one more group; all if it is empty.

    Raises:
        UserError: a name that no entry has, or no entry is left.
    """
    from benchmarks.data import load_data, sources
    from benchmarks.grid import expand
    from benchmarks.runs import Run

    recipe = load(BenchRecipe, path, overrides or ())
    recipe = recipe.model_copy(update={"data": sources(recipe.data, data or [])})
    wanted = [*(only or []), *([seeds] if seeds else [])]
    every = expand(recipe)
    known = set[str]().union(*(_names(entry) for entry in every))
    unknown = [name for group in wanted for name in group.split(",") if name not in known]
    entries = [entry for entry in every if all(_names(entry) & set(group.split(",")) for group in wanted)]
    if unknown or not entries:
        problem = f"no entry is named {', '.join(unknown)}" if unknown else "no entry matches"
        hint = "name data sets, backbones, alignments or seeds of the recipe; --set 'seeds=[0,1]' sets its seeds"
        raise UserError(problem, where="--only, --seeds", hint=hint)

    with_text = {entry.data for entry in entries if entry.config.needs_text}
    names = dict.fromkeys(entry.data for entry in entries)
    loaded = {name: load_data(name, recipe.data[name], text=name in with_text) for name in names}
    if recipe.without_text == "leave out":
        entries = [entry for entry in entries if loaded[entry.data].text or not entry.config.needs_text]
    return recipe, [Run(entry, loaded[entry.data], recipe.evaluate) for entry in entries]


def _names(entry: "Entry") -> set[str]:
    """The names by which `--only` and `--seeds` choose an entry."""
    return {entry.data, entry.backbone, entry.alignment, str(entry.seed)}


def write_grid_tables(grid: Grid, against: str) -> str:
    """Writes the results and tables of the finished runs: one of all data sets, if there are several, and those of
    each. Returns the tables in Markdown.
    """
    from benchmarks import results, tables
    from benchmarks.grid import expand

    found = results.collect(grid.runs, grid.store)
    results.write(found, grid.folder)
    names = [name for name in grid.recipe.data if name in found.runs["data"]]
    methods = list(dict.fromkeys((entry.backbone, entry.alignment) for entry in expand(grid.recipe)))
    parts = ["### All data sets\n", tables.joint(found, names, methods)] if len(names) > 1 else []
    for name in names:
        parts += [f"### {name}\n", tables.table(found, name, against), tables.costs(found, name)]
    text = "\n".join(parts)
    (grid.folder / TABLE).write_text(text)

    return text


def write_table(folder: Path, text: str, name: str = TABLE) -> None:
    """Writes a Markdown table to a file in the folder, and prints it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    print_plain(text)
