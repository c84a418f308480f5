"""`darec bench`: grids of training runs, tables and plots, simulated nights, and speed comparisons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from darec.common.errors import UserError
from pipelines.cli.options import CountOption, RecipeOption, open_recipe
from pipelines.show import Bars, console, print_plain
from schemas.bench import BenchRecipe

if TYPE_CHECKING:
    from benchmarks.grid import Entry
    from benchmarks.runs import Run
    from darec.artifacts.store import Store
    from stages.execute import Result

app = typer.Typer(help="Run grids of training runs, make tables and plots, and measure speed.", no_args_is_help=True)

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe of the benchmark: see configs/bench/.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="Replace a data set of the recipe: NAME=FOLDER or NAME=RECIPE.yaml. May be repeated."),
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

STORE = Path("data/bench/store")
DEFAULT_DATA = Path("data/benchmarks/beauty")
WHOLE_RUN = Path("configs/movielens-100k.yaml")


@app.command()
def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Run the missing entries of a grid. A run that was killed continues from its checkpoint."""
    from benchmarks.runs import run_grid
    from darec.artifacts.store import Store

    loaded, runs = _open(recipe, data, overrides, only, seeds)
    place = Store(store)
    with Bars(loaded.name) as bars:
        for number, (done, result) in enumerate(run_grid(runs, place, bars), 1):
            console.print(f"[{number}/{len(runs)}] {done.entry.label}: {_line(result)}", highlight=False)
    _write_tables(loaded, runs, store, out, loaded.baseline)


@app.command()
def table(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    against: Annotated[
        str | None, typer.Option(help="Alignment to compare with.", show_default="the baseline of the recipe")
    ] = None,
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Write Markdown tables of the finished runs, with standard deviations and paired tests."""
    loaded, runs = _open(recipe, data, overrides, only, seeds)
    print_plain(_write_tables(loaded, runs, store, out, against or loaded.baseline))


@app.command()
def slices(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Compare the finished runs by the popularity of items, and by diversity, novelty and coverage of their lists."""
    from benchmarks import slices as groups
    from benchmarks.runs import find
    from darec.artifacts.store import Store

    loaded, runs = _open(recipe, data, overrides, only, seeds)
    place = Store(store)
    done = [(run, artifact) for run in runs if (artifact := find(run, place)) is not None]
    if not done:
        raise UserError("no run of this benchmark is finished", where=str(store), hint="run `darec bench run` first")
    folder = out or STORE.parent / loaded.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slices.md").write_text(text := groups.tables(done))
    print_plain(text)


@app.command()
def plot(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Plot the finished runs: accuracy, sparsity slices, sweeps, and the parts of DaRec before and after training."""
    from benchmarks import plots, results
    from darec.artifacts.store import Store

    loaded, runs = _open(recipe, data, overrides, only, seeds)
    place, folder = Store(store), out or STORE.parent / loaded.name
    written = plots.plot_all(loaded, results.collect(runs, place), folder)
    for path in [*written, *_plot_parts(runs, place, folder)]:
        console.print(path)


def _plot_parts(runs: list["Run"], store: "Store", folder: Path) -> list[Path]:
    """Plots DaRec's parts for the first finished run of each data set that has them and is not part of a sweep."""
    from benchmarks import plots
    from benchmarks.parts import before_and_after
    from benchmarks.runs import find

    written = {}
    for run in runs:
        kinds = {objective.name for objective in run.entry.config.alignment}
        if run.data.name in written or "darec" not in kinds or (artifact := find(run, store)) is None:
            continue
        figure = plots.parts(*before_and_after(run, artifact), f"{run.entry.label}: shared and specific parts")
        written[run.data.name] = plots.save(figure, folder / f"{run.data.name}-parts.png")
    return list(written.values())


@app.command()
def cold_start(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Fraction of the items that is removed from train.")
    ] = 0.1,
    store: StoreOption = STORE,
    out: OutOption = None,
) -> None:
    """Remove items from train and evaluate vectors that are predicted from their text."""
    from dataclasses import replace

    from benchmarks import cold
    from benchmarks.runs import run_grid
    from darec.artifacts.store import Store

    loaded, runs = _open(recipe, data, overrides, only, "")
    held = {run.data.name: cold.hold_out(run.data, share, seed=0) for run in runs}
    with Bars(loaded.name) as bars:
        held_runs = [replace(run, data=held[run.data.name]) for run in runs]
        done = [(run, result.artifact) for run, result in run_grid(held_runs, Store(store), bars) if result.artifact]
    folder = out or STORE.parent / loaded.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text := cold.table(done, {run.data.name: run.data for run in runs}))
    print_plain(text)


@app.command()
def nights(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run on MovieLens-100K.")] = WHOLE_RUN,
    nights: Annotated[int, typer.Option(min=0, help="Number of nights after the first.")] = 30,
    growth: Annotated[
        float, typer.Option(min=0.0001, help="New interactions per night, as a fraction of the known ones.")
    ] = 0.01,
    scratch_every: Annotated[int, typer.Option(min=1, help="Also train from scratch every N nights.")] = 1,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for store, log, table and plot.")] = STORE.parent
    / "nights",
) -> None:
    """Run the pipeline on growing data for several nights: rows profiled, tokens, minutes and Recall@20 of each."""
    from benchmarks.nightly_simulation import simulate
    from benchmarks.nights import plot, table
    from darec.common.recipes import load_recipe
    from darec.dataset.sources import movielens_files

    loaded = load_recipe(recipe, overrides or ())

    done = []
    with Bars("nights") as bars:
        for night in simulate(loaded, movielens_files, out, nights, growth, scratch_every, bars):
            done.append(night)
            console.print(f"night {night.number}: {night.new_users} users, {night.new_items} items profiled")
    (out / "table.md").write_text(text := table(done))
    plot(done, out / "nights.png")
    print_plain(text)


@app.command()
def refit(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run, with timestamps.")] = WHOLE_RUN,
    cuts: Annotated[int, typer.Option(min=1, help="Number of points in time at which the log is cut.")] = 12,
    first: Annotated[float, typer.Option(min=0.05, max=0.99, help="Share of the log before the first cut.")] = 0.35,
    days: Annotated[float, typer.Option(min=0.01, help="Number of days after a cut that are predicted.")] = 10,
    overrides: SetOption = None,
    store: StoreOption = STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table.")] = STORE.parent / "refit",
) -> None:
    """Compare models trained on train and on all interactions, by the interactions of the following days."""
    from benchmarks.refit import measure, table
    from darec.common.recipes import load_recipe

    loaded = load_recipe(recipe, [*(overrides or ()), f"runtime.store={store}"])
    shares = [first + (0.95 - first) * number / max(cuts - 1, 1) for number in range(cuts)]
    done = []
    for cut in measure(loaded, shares, days):
        done.append(cut)
        console.print(f"[{len(done)}/{cuts}] {cut.known:,} interactions before, {len(cut.users)} users after")
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text := table(done))
    print_plain(text)


@app.command()
def fold_in(
    recipe: RecipeArgument,
    data: DataOption = None,
    overrides: SetOption = None,
    only: OnlyOption = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=10, help="Number of rounds; each leaves out another tenth of the users.")
    ] = 10,
    out: OutOption = None,
) -> None:
    """Remove users from train and evaluate vectors that are folded in from their histories."""
    from benchmarks.fold_in import measure, table

    loaded, runs = _open(recipe, data, overrides, only, "")
    tables = []
    for run in runs:
        done = []
        for scores in measure(run, rounds):
            done.append(scores)
            console.print(f"{run.entry.label}: {len(done)}/{rounds}", highlight=False)
        tables.append(table(run.data.name, done))
    folder = out or STORE.parent / loaded.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text := "\n".join(tables))
    print_plain(text)


@app.command()
def dislikes(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a whole run with dislikes.")] = WHOLE_RUN,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    overrides: SetOption = None,
    store: StoreOption = STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table.")] = STORE.parent / "dislikes",
) -> None:
    """Compare ways to use dislikes in training and in lists, by later likes and dislikes."""
    from benchmarks.dislikes import measure, table
    from darec.common.recipes import load_recipe

    loaded = load_recipe(recipe, [*(overrides or ()), f"runtime.store={store}"])
    found = {}
    for name, each in measure(loaded, range(seeds)):
        found[name] = each
        console.print(f"{name}: Recall@20 {each.plain.means()['recall@20']:.4f}", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text := table(found))
    print_plain(text)


@app.command()
def speed(
    data: Annotated[
        Path, typer.Option("--data", help="Folder of a data set, or the recipe of a whole run.")
    ] = DEFAULT_DATA,
    repeats: Annotated[int, typer.Option(min=1, help="Number of measured rounds.")] = 3,
    recbole: Annotated[bool, typer.Option(help="Also measure RecBole, installed into a separate environment.")] = True,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads of each candidate.", show_default="all cores")
    ] = None,
    peers: Annotated[Path, typer.Option("--peers", help="Folder of the environment of RecBole.")] = Path("data/peers"),
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Device on which darec trains and ranks.")] = "cpu",
) -> None:
    """Measure an epoch, an evaluation and the overhead of DaRec against RecBole and the scheme of RLMRec."""
    import torch

    from benchmarks import speed as timing
    from benchmarks.data import load_data
    from darec.common.device import pick

    place = pick(device, "--device")
    if threads:
        torch.set_num_threads(threads)
    source = data if data.exists() else WHOLE_RUN
    loaded = load_data(source.stem, source, text=False)
    with Bars("speed") as bars:
        measured, growth = timing.measure(loaded, repeats, bars, peers.resolve() if recbole else None, place)
    print_plain(timing.table(measured, growth, loaded.interactions, place))


@app.command()
def serve(
    url: Annotated[str, typer.Option(help="Address of a running `darec serve`.")] = "http://127.0.0.1:8080",
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of the measurement.")] = 10.0,
    clients: Annotated[int, typer.Option(min=1, help="Number of concurrent clients.")] = 4,
    k: CountOption = 10,
    recipe: RecipeOption = None,
) -> None:
    """Measure requests per second and latencies of a running `darec serve`."""
    from benchmarks.load import load
    from pipelines.cli.serving import current_bundle

    _, store = open_recipe(recipe, None)
    users = current_bundle(store.root).user_ids().to_list()
    for name, value in load(url, users, seconds, clients, k).items():
        print_plain(f"{name}: {value:.4g}")


@app.command()
def lists(
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 32_768,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 50_000,
    width: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 32,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of a list.")] = 20,
    index: Annotated[Literal["flat", "ivf", "hnsw"], typer.Option(help="Index of the release.")] = "flat",
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the best one counts.")] = 3,
) -> None:
    """Measure the number of lists per second and core, for several ways to find the top items and for whole runs."""
    from benchmarks import lists as timing

    size = timing.Size(users, items, width, k)
    with Bars("lists") as bars:
        measured = timing.measure(size, index, rounds, bars)
    print_plain(timing.table(measured, size))


@app.command()
def scale(
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Number of interactions, such as 1M. May be repeated.")
    ] = None,
    until: Annotated[str, typer.Option(help="Last stage to run.")] = "publish",
    text_width: Annotated[
        int, typer.Option(min=0, max=16_384, help="Width of random text vectors; with 0 the model uses no text.")
    ] = 0,
    overrides: SetOption = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the logs, the stores and the table.")] = STORE.parent
    / "scale",
) -> None:
    """Run the stages on synthetic logs: CPU seconds and peak memory of each stage, and how they grow with the data."""
    from benchmarks import scale as growth

    try:
        wanted = [growth.parsed(size) for size in sizes or ["1M", "5M"]]
    except ValueError as error:
        raise UserError(f"{error}", where="--size", hint="give a number of interactions, such as 200k or 5M") from error
    costs = []
    for interactions in wanted:
        recipe = growth.recipe_for(folder, interactions, text_width, overrides or ())
        for cost in growth.measure(recipe, interactions, until, text_width):
            costs.append(cost)
            size = growth.shown(interactions)
            console.print(
                f"{size} {cost.stage}: {cost.cpu_seconds:,.1f} CPU s, {cost.peak_mb:,.0f} MB", highlight=False
            )
    (folder / "table.md").write_text(text := growth.table(costs))
    print_plain(text)


def _write_tables(recipe: BenchRecipe, runs: list["Run"], store: Path, out: Path | None, against: str) -> str:
    from benchmarks import results, tables
    from darec.artifacts.store import Store

    found = results.collect(runs, Store(store))
    folder = out or STORE.parent / recipe.name
    results.write(found, folder)
    parts = []
    for name in found.runs["data"].unique(maintain_order=True):
        parts += [f"### {name}\n", tables.table(found, name, against), tables.costs(found, name)]
    text = "\n".join(parts)
    (folder / "table.md").write_text(text)
    return text


def _line(result: "Result") -> str:
    import polars as pl

    assert result.artifact is not None
    path = result.artifact.path
    metrics = pl.read_parquet(path / "metrics.parquet").filter(part="val", metric="recall@20")["value"]
    value = f"validation Recall@20 {metrics[0]:.4f}" if len(metrics) else "done"
    return f"{value}{' (cached)' if result.cached else ''}  {path.name}"


def _open(
    path: Path, data: list[str] | None, overrides: list[str] | None, only: list[str] | None, seeds: str
) -> tuple[BenchRecipe, list["Run"]]:
    """The recipe and its runs, each with its data."""
    from benchmarks.data import load_data, sources
    from benchmarks.grid import expand
    from benchmarks.runs import Run
    from darec.common.recipes import load

    recipe = load(BenchRecipe, path, overrides or ())
    recipe = recipe.model_copy(update={"data": sources(recipe.data, data or [])})
    wanted = [*(only or []), *([seeds] if seeds else [])]
    entries = [entry for entry in expand(recipe) if _wanted(entry, wanted)]
    if not entries:
        hint = "name data sets, backbones, alignments or seeds of the recipe"
        raise UserError("no entry matches", where="--only, --seeds", hint=hint)
    with_text = {entry.data for entry in entries if entry.config.needs_text}
    names = dict.fromkeys(entry.data for entry in entries)
    loaded = {name: load_data(name, recipe.data[name], text=name in with_text) for name in names}
    if recipe.without_text == "leave out":
        entries = [entry for entry in entries if loaded[entry.data].text or not entry.config.needs_text]
    return recipe, [Run(entry, loaded[entry.data], recipe.evaluate) for entry in entries]


def _wanted(entry: "Entry", only: list[str]) -> bool:
    """Whether each group of names, as `yelp` or `sgl,gccf`, holds one of the entry's."""
    names = {entry.data, entry.backbone, entry.alignment, str(entry.seed)}
    return all(names & set(group.split(",")) for group in only)
