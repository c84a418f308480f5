"""`darec explain`: the manifest and lineage of an artifact."""

from darec.artifacts.lineage import lineage
from darec.artifacts.store import Artifact
from darec.common.errors import UserError
from pipelines.cli.options import RecipeOption, SetOption, StageArgument, open_recipe
from pipelines.show import console
from stages.registry import task_named


def explain(stage: StageArgument, recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Show the manifest, inputs and lineage of the newest artifact of a stage."""
    from rich.json import JSON

    _, store = open_recipe(recipe, overrides)
    artifact = store.latest(task_named(stage).name)
    if artifact is None:
        raise UserError(f"stage {stage!r} has no artifact yet", where=str(store.root), hint="run `darec run`")

    console.print(str(artifact.path), style="bold")
    console.print(JSON(artifact.manifest.model_dump_json()))
    console.print("Lineage (the newest artifact, then its inputs):")
    shown: set[str] = set()
    hidden = None  # the depth of an artifact that is listed above with its inputs
    for depth, each in lineage(store, artifact):
        if hidden is not None and depth > hidden:
            continue
        hidden = depth if each.key in shown else None
        note = " (see above)" if hidden is not None else ""
        console.print(f"{'  ' * depth}{_line(each)}{note}", highlight=False)
        shown.add(each.key)


def _line(artifact: Artifact) -> str:
    name = f"{artifact.stage} {artifact.key}"
    if not artifact.path.is_dir():
        return f"{name} (removed)"
    manifest = artifact.manifest
    return f"{name}  {manifest.created:%Y-%m-%d %H:%M}  {manifest.rows:,} rows  {manifest.seconds:.1f} s"
