"""publish: the gate checks the bundle, which becomes the current release if it passes.

This is an effect: `darec.serving.releases` keeps the current release and the decisions.
"""

from pathlib import Path

from darec.artifacts.files import BUNDLE
from darec.serving.releases import Releases
from schemas.release import Release
from schemas.reports import PublishReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[PublishReport]:
    """Runs the gate. A refusal is an outcome and not an error: the current release stays."""
    recipe = context.recipe
    release = Releases(context.store).publish(_bundle(context), recipe.gate, evaluate=recipe.evaluate)
    return Outcome(1, _report(release, release.decision.reason))


def settled(context: StageContext) -> PublishReport | None:
    """The earlier decision if publishing would change nothing; None if the bundle is not gated yet."""
    releases = Releases(context.store)
    reason = releases.settled(_bundle(context), context.recipe.gate)
    release = releases.of_bundle(_bundle(context)) if reason is not None else None
    return None if release is None or reason is None else _report(release, reason)


def _report(release: Release, reason: str) -> PublishReport:
    checks = release.decision.checks
    return PublishReport(
        release=release.id, state=release.outcome, reason=reason, summary=release.summary, checks=checks
    )


def _bundle(context: StageContext) -> Path:
    return context.path(BUNDLE[-1]).parent
