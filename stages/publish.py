"""publish: the bundle meets the gate and, if it passes, becomes the current release.

An effect, not an artifact: what is current and what was decided is kept by `darec.serving.releases`.
"""

from typing import Any

from darec.serving.releases import Releases
from schemas.recipe import Recipe
from schemas.release import BUNDLE_FILES, REPORT_FILE
from stages.contract import Input, Outcome, Stage, StageContext


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (Input("export", BUNDLE_FILES),)


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"gate": recipe.gate}


def _settled(context: StageContext) -> str | None:
    bundle = context.input("export", REPORT_FILE).parent
    return Releases(context.store).settled(bundle, context.recipe.gate)


def _run(context: StageContext) -> Outcome:
    """A refusal is an outcome, not an error: production keeps the release it has."""
    bundle = context.input("export", REPORT_FILE).parent
    release = Releases(context.store).publish(bundle, context.recipe.gate)
    report = {
        "release": release.id,
        "state": release.state,
        "reason": release.decision.reason,
        "checks": [check.model_dump(mode="json") for check in release.decision.checks],
    }
    return Outcome(rows=1, report=report)


STAGE = Stage(
    name="publish",
    version=1,
    outputs=(),
    inputs=_inputs,
    config=_config,
    run=_run,
    settled=_settled,
)
