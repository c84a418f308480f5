"""What `darec recommend`, `similar`, `releases`, `promote`, `rollback` and `diff` print, given the store's root.

Imports are inside the functions: listing releases must not wait for FAISS.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import polars as pl

    from darec.serving.bundle import Bundle
    from schemas.release import Release


def recommend(store: Path, users: Sequence[str], k: int = 10, as_json: bool = False) -> None:
    """Prints the `k` best unseen items of each user, from the current release."""
    from darec.serving.recommend import recommend_many

    answer = recommend_many(_current_bundle(store), users, k)
    if as_json:
        _print_json(answer.to_dicts())
        return
    for user in dict.fromkeys(users):
        _print_frame(f"for user {user}", answer.filter(user_id=user).drop("user_id"))


def similar(store: Path, item: str, k: int = 10, as_json: bool = False) -> None:
    """Prints the `k` items most like an item, from the current release."""
    from darec.serving.recommend import similar as similar_items

    bundle = _current_bundle(store)
    answer = similar_items(bundle, item, k)
    if as_json:
        _print_json(answer.to_dicts())
        return
    title = bundle.items.filter(item_id=item)["title"][0]
    _print_frame(f"like item {item}: {title}", answer)


def releases(store: Path, as_json: bool = False) -> None:
    """Prints every bundle that met the gate, newest first."""
    from darec.serving.releases import Releases

    book = Releases(store)
    known, current = book.all(), book.current()
    if as_json:
        _print_json([_summary(release, current) for release in known])
        return
    shown = ("id", "state", "recall@20", "ndcg@20", "changed", "why")  # what fits on 80 columns
    rows = [[summary[name] for name in shown] for summary in (_summary(release, current) for release in known)]
    _print_rows("releases, newest first", shown, rows, empty="nothing has been published yet: `darec run` does")


def promote(store: Path, release_id: str, why: str = "by hand") -> None:
    """Puts a release into production, whatever the gate said of it, and prints its id."""
    from darec.serving.releases import Releases

    release = Releases(store).promote(release_id, why=why)
    Console().print(f"current: {release.id} (before: {release.previous})", highlight=False)


def rollback(store: Path, why: str = "by hand") -> None:
    """Goes back to the release before the current one, and prints its id."""
    from darec.serving.releases import Releases

    book = Releases(store)
    left = book.current()
    release = book.rollback(why=why)
    Console().print(f"current: {release.id} (rolled back: {left.id if left else None})", highlight=False)


def diff(store: Path, a: str, b: str, as_json: bool = False) -> None:
    """Prints metrics, sizes and configuration of release `b` beside release `a`."""
    from darec.serving.releases import Releases

    found = Releases(store).diff(a, b)
    if as_json:
        _print_json({"metrics": found.metrics, "sizes": found.sizes, "config": found.config})
        return
    pairs = [(name, *pair) for name, pair in (found.metrics | found.sizes).items()]
    _print_rows(
        "metrics and sizes", ("", a, b, "change"), [(name, old, new, _change(old, new)) for name, old, new in pairs]
    )
    for line in found.config or ["the same configuration"]:
        Console().print(Text(line))


def _current_bundle(store: Path) -> "Bundle":
    from darec.serving.bundle import Bundle
    from darec.serving.releases import Releases

    return Bundle.open(Releases(store).serving())


def _summary(release: "Release", current: "Release | None") -> dict[str, Any]:
    last = release.events[-1]
    return {
        "id": release.id,
        "state": "current" if current and release.id == current.id else release.state.replace("_", " "),
        "recall@20": release.report.metrics.get("recall@20"),
        "ndcg@20": release.report.metrics.get("ndcg@20"),
        "changed": f"{last.at:%Y-%m-%d %H:%MZ}",
        "who": last.who,
        "why": last.why,
        "artifact": release.artifact,
    }


def _change(old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return "" if old == new else "only in one"
    return f"{(new - old) / old:+.1%}" if old else f"{new - old:+.4g}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _print_frame(title: str, frame: "pl.DataFrame") -> None:
    _print_rows(title, frame.columns, frame.rows(), empty=f"nothing {title}: every item is known to them already")


def _print_rows(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> None:
    """A table; titles and ids come from the raw data, so nothing in them is taken as markup."""
    rows = list(rows)
    if not rows:
        Console().print(Text(empty))
        return
    table = Table(title=Text(title), title_justify="left")
    for name in names:
        table.add_column(Text(name), overflow="fold", no_wrap=name == "id")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    Console().print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
