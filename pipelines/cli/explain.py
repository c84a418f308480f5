"""`darec explain`: the manifest and lineage of an artifact."""

from darec.artifacts.lineage import lineage
from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, SetOption, StageArgument, open_recipe
from pipelines.show import console
from stages.registry import task_named


def explain(stage: StageArgument, recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Show the manifest, inputs and lineage of a stage's newest artifact."""
    from rich.json import JSON

    _, store = open_recipe(recipe, overrides)
    artifact = store.latest(task_named(stage).name)
    if artifact is None:
        raise UserError(f"stage {stage!r} has no artifact yet", where=str(store.root), hint="run `darec run`")

    console.print(str(artifact.path), style="bold")
    console.print(JSON(artifact.manifest.model_dump_json()))
    console.print("Lineage (the newest artifact, then its inputs):")
    for depth, each in lineage(store, artifact):
        line = f"{'  ' * depth}{each.stage} {each.key}"
        if not each.path.is_dir():
            console.print(f"{line} (removed)")
            continue
        manifest = each.manifest
        when = f"{manifest.created:%Y-%m-%d %H:%M}"
        console.print(f"{line}  {when}  {manifest.rows:,} rows  {manifest.seconds:.1f} s", highlight=False)
