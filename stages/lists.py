"""lists: writes the lists of all users of the current release.

This is an effect, because the folder is outside the store. It follows publish and uses the release that is then
current.
"""

from pathlib import Path

from darec.common.errors import UserError
from darec.serving.bundle import Bundle
from darec.serving.lists import write_lists, written
from darec.serving.releases import Releases
from schemas.lists import ListsConfig
from schemas.reports import ListsReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[ListsReport]:
    """Writes the lists, unless nothing has been published yet."""
    release = _current(context)
    if release is None:
        return Outcome(0, ListsReport(state="skipped", reason="nothing has been published yet"))
    config, out = _section(context)
    manifest = write_lists(Bundle.open(release), out, config, context.recipe.rules, context.progress)
    return Outcome(manifest.rows, ListsReport(state="written", reason=f"{manifest.users:,} users", out=str(out)))


def settled(context: StageContext) -> ListsReport | None:
    """The report of the existing lists, if they belong to the current release and have the same settings.

    The content of a file of ids may have changed, so with such rules the lists are always written again.
    """
    release, (config, out), rules = _current(context), _section(context), context.recipe.rules
    there = written(out)
    files = any(isinstance(ids, Path) for ids in (rules.only, rules.in_stock, rules.blocked))
    if release is None or there is None or files:
        return None
    same = (there.release, there.config, there.rules) == (release.name, config, rules)
    return ListsReport(state="written", reason="the lists of this release exist", out=str(out)) if same else None


def _current(context: StageContext) -> Path | None:
    """The bundle in production."""
    try:
        return Releases(context.store).serving().resolve()
    except UserError:
        return None


def _section(context: StageContext) -> tuple[ListsConfig, Path | str]:
    config: ListsConfig | None = context.config["lists"]
    if config is None:
        hint = "add `lists: {out: FOLDER}` to the recipe, or use `darec recommend --all`"
        raise UserError("the recipe has no section lists", where="lists", hint=hint)
    return config, config.out
