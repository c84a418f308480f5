"""publish: the bundle is judged by the gate and, if it passes, becomes the current release.

An effect, not an artifact: which release is current, and what was decided, is kept by `darec.serving.releases`.
"""

from pathlib import Path

from darec.artifacts.files import BUNDLE
from darec.serving.releases import Releases
from schemas.release import Release
from schemas.reports import PublishReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[PublishReport]:
    """Judges the bundle. A refusal is an outcome, not an error: production keeps the release it has."""
    recipe = context.recipe
    release = Releases(context.store).publish(_bundle(context), recipe.gate, evaluate=recipe.evaluate)
    return Outcome(1, _report(release, release.decision.reason))


def settled(context: StageContext) -> PublishReport | None:
    """What was decided before, if publishing would change nothing; None if the bundle is not gated yet."""
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
