"""Sample users with their history and their recommendations, and why these were recommended."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import polars as pl

from darec.artifacts import files
from darec.report.content import Viewer
from darec.report.semantics import unit_rows
from darec.report.source import Source, rows_at_ranks
from darec.serving.bundle import Bundle
from darec.serving.recommend import recommend_many
from schemas import columns as c

_RANKS = (0.9, 0.6, 0.3, 0.05)  # ranks by activity of the users that are shown
_SHOWN = 8  # maximum number of items of a history, and of recommendations


def viewers(source: Source) -> tuple[Viewer, ...]:
    """A few users, from a very active one to one with little history."""
    names = source.read(files.USER_VOCABULARY).sort(c.USER_INDEX)[c.USER]
    activity = np.bincount(source.train[c.USER_INDEX].to_numpy(), minlength=len(names))
    rows = rows_at_ranks(activity, _RANKS)
    bundle = Bundle.open(source.artifact("export").path)
    recommended = recommend_many(bundle, [names[row] for row in rows], _SHOWN)
    profiles, reason = _profiles(source, rows), _reasons(source)

    def viewer(row: int) -> Viewer:
        own = recommended.filter(user_id=names[row])
        return _viewer(source, row, names[row], int(activity[row]), profiles.get(row, ""), own, reason)

    return tuple(viewer(row) for row in rows)


def _reasons(source: Source) -> Callable[[str, list[int]], str]:
    """A function of a recommended item and the numbers of a user's items: which of these it is nearest to, by trained
    vector and by text.
    """
    titles, numbers = source.items[c.TITLE], {item: row for row, item in enumerate(source.items[c.ITEM])}
    spaces = {"near": source.read(files.EMBEDDINGS).item}
    if source.has("embed"):
        spaces["by text near"] = source.read(files.TEXT_VECTORS).item

    def reason(item: str, liked: list[int]) -> str:
        row = numbers.get(item)
        if row is None or not liked:
            return ""
        nearest = {}
        for name, vectors in spaces.items():
            unit = unit_rows(vectors[[*liked, row]])
            nearest[name] = titles[liked[int(np.argmax(unit[:-1] @ unit[-1]))]]
        if len(nearest) > 1 and len(set(nearest.values())) == 1:
            return f"near {nearest['near']}, also by text"
        return "; ".join(f"{name} {title}" for name, title in nearest.items())

    return reason


def _viewer(
    source: Source,
    row: int,
    user: str,
    interactions: int,
    profile: str,
    recommended: pl.DataFrame,
    reason: Callable[[str, list[int]], str],
) -> Viewer:
    latest = source.train.filter(user_index=row).sort(c.TIMESTAMP, c.ITEM_INDEX, descending=True, nulls_last=True)
    titles, liked = source.items[c.TITLE], latest[c.ITEM_INDEX].to_list()
    by_popularity = recommended.height > 0 and recommended[c.SOURCE][0] == "popularity"
    items = recommended.select(c.ITEM, c.TITLE, c.SCORE).iter_rows()
    shown = latest.select(c.ITEM_INDEX, c.TIMESTAMP).head(_SHOWN).iter_rows()
    return Viewer(
        user=user,
        profile=profile,
        interactions=interactions,
        history=tuple((titles[item], _when(seconds)) for item, seconds in shown),
        recommended=tuple((title, score, "" if by_popularity else reason(item, liked)) for item, title, score in items),
        source=recommended[c.SOURCE][0] if recommended.height else "model",
    )


def _when(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _profiles(source: Source, rows: list[int]) -> dict[int, str]:
    if not source.has("profile_users"):
        return {}
    table = source.read(files.USER_PROFILES)
    return dict(table.filter(pl.col(c.USER_INDEX).is_in(rows)).select(c.USER_INDEX, c.PROFILE).iter_rows())
