"""`darec tune`: hyper-parameter search over the fields of a whole-run recipe, or of training on benchmark data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from darec.common.errors import UserError
from darec.common.files import replace_text
from darec.common.progress import Progress
from darec.common.recipes import load, load_recipe
from pipelines.cli.bench_options import DataOption, SetOption
from pipelines.show import Bars, console
from schemas.bench import TuneRecipe
from schemas.data import GraphConfig
from schemas.recipe import Recipe
from stages.declarations import TRAIN
from stages.walk import run

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from benchmarks.data import BenchData
    from benchmarks.tune import Search, SearchContext


def tune(
    recipe: Annotated[Path, typer.Argument(help="Recipe of the search: see configs/tune/.")],
    only: Annotated[str, typer.Option("--only", help="Search only these methods, such as none,darec.")] = "",
    data: DataOption = None,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that holds one folder per search.")] = Path("data/tune"),
) -> None:
    """Search hyper-parameters by validation Recall@20. An interrupted search is resumed."""
    from benchmarks.data import sources
    from benchmarks.tune import searches

    loaded = load(TuneRecipe, recipe, overrides or ())
    chosen = sources(loaded.data, data or [])
    if len(chosen) != 1:
        hint = f"a search has exactly one: replace that of the recipe, --data {next(iter(chosen), 'NAME')}=FOLDER"
        raise UserError(f"{len(chosen)} data sets are named", where=str(recipe), hint=hint)

    with Bars(loaded.name) as bars:
        base = _search_context(*next(iter(chosen.items())), bars)
        for search in searches(loaded, base, out, bars, only.split(",") if only else ()):
            console.print(_write_best(search, search.run(_announce)), markup=False, highlight=False)


def _search_context(name: str, path: Path, progress: Progress) -> "SearchContext":
    from benchmarks.data import is_recipe, load_data
    from benchmarks.tune import SearchContext, given

    if not is_recipe(path):
        return given(load_data(name, path))
    sections = ("llm", "profile_items", "profile_users", "embed", "graph", "train")
    return SearchContext(load_recipe(path), sections, lambda recipe: _data_of(name, recipe, progress))


def _data_of(name: str, recipe: Recipe, progress: Progress) -> "BenchData":
    """The inputs of the stage train for `recipe`. Only what no earlier trial has computed is run."""
    from benchmarks.data import from_artifacts
    from stages.prepare import prepare

    prepare(recipe, "train")
    sources = dict.fromkeys(file.stage for file in TRAIN.reads(recipe))
    made = {stage: run(recipe, stage, progress=progress) for stage in sources}
    artifacts = {stage: results[-1].artifact for stage, results in made.items()}
    weighted = recipe.graph != GraphConfig()  # benchmarks leave the default graph to training, so its draws stay theirs
    split, embed, graph = (artifacts.get(stage) for stage in ("split", "embed", "graph"))
    assert split is not None

    return from_artifacts(name, split, embed, graph if weighted else None)


def _write_best(search: "Search", study: "optuna.Study") -> str:
    from benchmarks.tune import finished

    best = {"validation recall@20": study.best_value, "trials": len(finished(study)), "set": study.best_params}
    text = yaml.safe_dump({search.recipe.name: best}, sort_keys=False)
    replace_text(search.folder / "best.yaml", text)
    return text


def _announce(trial: "FrozenTrial") -> None:
    steps = trial.intermediate_values
    value = trial.value if trial.value is not None else (max(steps.values()) if steps else 0.0)
    console.print(f"trial {trial.number}: {trial.state.name.lower()} {value:.4f} {trial.params}", highlight=False)
