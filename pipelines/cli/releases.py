"""`darec releases`: the history of releases."""

from typing import Any

from darec.serving.releases import Releases
from pipelines.cli.options import JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.tables import print_table
from schemas.release import Release


def releases(recipe: RecipeOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """List every bundle that the gate has checked, newest first.

    Metrics are those of the model trained on train, even if the released vectors are trained on all interactions.
    """
    _, store = open_recipe(recipe, overrides)
    book = Releases(store.root)
    known, current = book.all(), book.current()
    rows = [_row(release, current) for release in known]
    if as_json:
        print_json(rows)
        return

    shown = ("id", "state", "recall@20", "ndcg@20", "trained on", "changed", "why")
    cells = [[row[name] for name in shown] for row in rows]
    empty = "nothing has been published yet: run `darec run`"
    print_table("Releases, newest first", shown, cells, text="why", empty=empty)


def _row(release: Release, current: Release | None) -> dict[str, Any]:
    last = release.events[-1]
    return {
        "id": release.id,
        "state": "current" if current and release.id == current.id else release.state.replace("_", " "),
        "recall@20": release.report.metrics.get("recall@20"),
        "ndcg@20": release.report.metrics.get("ndcg@20"),
        "trained on": "all interactions" if release.report.trained_on == "all" else "train",
        "changed": f"{last.at:%Y-%m-%d %H:%MZ}",
        "who": last.who,
        "why": last.why,
        "artifact": release.artifact,
    }
