"""Recommendations from a bundle, by external ids, with titles and without seen items."""

import difflib
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.common.errors import UnknownIdError, UserError
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.index import Bools, Floats, Ints, Seen, normalised, nothing_seen, search
from darec.serving.ranker import Ranker, by_index, by_popularity
from darec.serving.rules import Rules
from schemas import columns as c
from schemas.rules import RulesConfig

MODEL, TEXT, HISTORY, POPULARITY = "model", "text", "history", "popularity"
"""The source of a list: a trained vector, one predicted from the user's text, one folded in from a
history, or counts.
"""


def recommend(bundle: Bundle, user_id: str, k: int = 10, rules: RulesConfig | None = None) -> pl.DataFrame:
    """The `k` best unseen items of one user; see `recommend_many`."""
    return recommend_many(bundle, [user_id], k, rules)


def recommend_many(
    bundle: Bundle, user_ids: Sequence[str], k: int = 10, rules: RulesConfig | None = None
) -> pl.DataFrame:
    """The `k` best unseen items of each user, in the given order.

    A user without train interactions gets the best items for the vector that is predicted from the user's text, with
    `source` = "text". If the release has no such vectors, or if the vector of a user is zero, the user gets the most
    popular items, with `source` = "popularity" and the train count as score. A user who has seen everything gets no
    row; if fewer than `k` unseen items are left, the list is shorter. `rules` define which items are allowed and how
    lists are composed.

    Returns:
        Columns user_id, rank (from 1), item_id, title, score, source.

    Raises:
        UserError: an id is unknown (the nearest known ones are named), k < 1, or the rules leave no item.
    """
    _positive(k)
    users = _known_users(bundle, user_ids)
    applied = Rules.of(rules or RulesConfig(), bundle)
    seen = _left_out(bundle, users, applied)
    vectors = vectors_of(users)
    source = sources(bundle, users[c.TRAIN_COUNT].to_numpy(), vectors)
    ids, scores = _lists(bundle, vectors, source != POPULARITY, seen, k, applied)
    table = _answer(bundle, ids, scores)
    asked = pl.DataFrame({c.USER: users[c.USER], c.SOURCE: pl.Series(source)}).with_row_index("query")
    columns = (c.USER, c.RANK, c.ITEM, c.TITLE, c.SCORE, c.SOURCE)

    return table.join(asked, on="query", maintain_order="left").select(columns)


def recommend_histories(
    bundle: Bundle, histories: Sequence[Sequence[str]], k: int = 10, rules: RulesConfig | None = None
) -> pl.DataFrame:
    """The `k` best items for each history of an unknown user, without the items of the history.

    A user vector is computed from a history without training: by a regression on the mean of its items' vectors, fitted
    to the users of the release (`darec.serving.fold_in`). An empty history gets the most popular items, and so does one
    whose vector is zero, with `source` = "popularity" and the train count as score.

    Args:
        bundle: A release.
        histories: External item ids, in any order; repeated ones count once.
        k: How many items.
        rules: Which items are allowed, and how lists are composed.

    Returns:
        Columns history (from 0), rank (from 1), item_id, title, score, source.

    Raises:
        UserError: an id is unknown (the nearest known ones are named), or k < 1.
    """
    from darec.serving.fold_in import fold_in  # imports torch, which other queries do not need

    _positive(k)
    known = _known_histories(bundle, histories)
    vectors = fold_in(bundle, known.rows, known.items, len(histories))
    has_vector = (known.counts(len(histories)) > 0) & vectors.any(1)
    applied = Rules.of(rules or RulesConfig(), bundle)
    ids, scores = _lists(bundle, vectors, has_vector, nothing_seen() if applied.seen else known, k, applied)
    table = _answer(bundle, ids, scores).rename({"query": "history"})
    source = pl.Series(c.SOURCE, np.where(has_vector, HISTORY, POPULARITY)[table["history"].to_numpy()], pl.String)

    return table.with_columns(source)


def similar(bundle: Bundle, item_id: str, k: int = 10, rules: RulesConfig | None = None) -> pl.DataFrame:
    """The `k` items with the largest cosine similarity to the item.

    `rules` define which items are allowed; those about the list of a user (`at_most`, `min_diversity`, `new_share`,
    `seen`) have no effect.

    Returns:
        Columns rank (from 1), item_id, title, score (cosine).

    Raises:
        UserError: the id is unknown (the nearest known ones are named), the vector of the item is 0, k < 1, or the
            rules leave no item.
    """
    _positive(k)
    found = bundle.item_vectors([item_id])
    if found.is_empty():
        raise _unknown("item", item_id, bundle.items[c.ITEM], bundle)
    vector = vectors_of(found)
    if not vector.any():  # the cosine to every item would be 0, and their order arbitrary
        hint = "vectors of items without interactions come from their texts: set train.cold_start"
        raise UnknownIdError("the item has a vector of zeros, to which no item is similar", where=item_id, hint=hint)
    itself = Seen(np.zeros(1, np.int64), found[c.ITEM_INDEX].to_numpy().astype(np.int64))
    allowed, most = Rules.of(rules or RulesConfig(), bundle).allowed, min(k, bundle.items.height)
    ids, scores = search(bundle.similar_index, normalised(vector), most, itself, allowed)
    return _answer(bundle, ids, scores).select(c.RANK, c.ITEM, c.TITLE, c.SCORE)


def sources(bundle: Bundle, train_counts: Ints, vectors: Floats) -> NDArray[np.str_]:
    """The source of each user's list: "model", "text" or "popularity".

    A vector of zeros has the same score with all items and cannot rank them: it counts as no vector.
    """
    untrained = TEXT if bundle.report.cold_vectors == "text" else POPULARITY
    return np.where(vectors.any(1), np.where(train_counts > 0, MODEL, untrained), POPULARITY)


def _lists(bundle: Bundle, vectors: Floats, has_vector: Bools, seen: Seen, k: int, rules: Rules) -> tuple[Ints, Floats]:
    """Items and scores of each query [queries, at most k]: by its vector, or by popularity if it has none."""
    ranker, known = Ranker.of(bundle, rules), vectors[has_vector]
    find = (
        (np.flatnonzero(has_vector), by_index(bundle, known, rules.allowed), by_index(bundle, known, rules.new)),
        (np.flatnonzero(~has_vector), by_popularity(bundle, rules.allowed), None),
    )
    ids = np.full((len(vectors), min(k, bundle.items.height)), -1, np.int64)
    scores = np.full(ids.shape, -np.inf, np.float32)
    for rows, candidates, new in find:
        if len(rows):
            ids[rows], scores[rows] = ranker.top(candidates, len(rows), k, seen.of(rows), new)

    return ids, scores


def _known_users(bundle: Bundle, user_ids: Sequence[str]) -> pl.DataFrame:
    asked = pl.DataFrame({c.USER: list(user_ids)}, schema={c.USER: pl.String()})
    users = asked.join(bundle.users(user_ids), on=c.USER, how="left", maintain_order="left")
    missing = users.filter(pl.col(c.USER_INDEX).is_null())
    if not missing.is_empty():
        raise _unknown("user", missing[c.USER][0], bundle.user_ids(), bundle)
    return users


def _known_histories(bundle: Bundle, histories: Sequence[Sequence[str]]) -> Seen:
    """The distinct items of each history."""
    asked = pl.DataFrame({"row": range(len(histories)), c.ITEM: [list(each) for each in histories]})
    asked = asked.cast({"row": pl.Int64, c.ITEM: pl.List(pl.String)}).explode(c.ITEM).drop_nulls().unique()
    numbers = bundle.items.select(c.ITEM).with_row_index(c.ITEM_INDEX)
    found = asked.join(numbers, on=c.ITEM, how="left").sort("row", c.ITEM_INDEX, nulls_last=True)
    missing = found.filter(pl.col(c.ITEM_INDEX).is_null())
    if not missing.is_empty():
        raise _unknown("item", missing.sort(c.ITEM)[c.ITEM][0], bundle.items[c.ITEM], bundle)
    return Seen(found["row"].to_numpy(), found[c.ITEM_INDEX].cast(pl.Int64).to_numpy())


def _left_out(bundle: Bundle, users: pl.DataFrame, rules: Rules) -> Seen:
    """The pairs that the lists of `users` exclude, by row of `users`, which may contain a user twice.

    These are seen items and dislikes, or only dislikes if the rules allow seen items.
    """
    rows = users.select(pl.col(c.USER_INDEX).cast(pl.Int32)).with_row_index("row")
    left_out = bundle.disliked if rules.seen else bundle.seen
    pairs = rows.join(left_out(users[c.USER_INDEX].to_list()), on=c.USER_INDEX)
    return Seen(pairs["row"].to_numpy().astype(np.int64), pairs[c.ITEM_INDEX].to_numpy().astype(np.int64))


def _answer(bundle: Bundle, ids: Ints, scores: Floats) -> pl.DataFrame:
    """Columns query, rank, item_id, title, score, with one row per recommended item."""
    query, place = np.nonzero(ids >= 0)
    named = bundle.items[ids[query, place]]
    return pl.DataFrame(
        {
            "query": query.astype(np.uint32),
            c.RANK: (place + 1).astype(np.int32),
            c.ITEM: named[c.ITEM],
            c.TITLE: named[c.TITLE],
            c.SCORE: scores[query, place],
        }
    )


def _positive(k: int) -> None:
    if k < 1:
        raise UserError(f"{k} recommendations are not possible", where="k", hint="use at least 1")


def _unknown(kind: str, wanted: str, known: pl.Series, bundle: Bundle) -> UnknownIdError:
    what = f"{kind} {wanted!r} is not in the release"
    return UnknownIdError(what, where=str(bundle.folder), hint=nearest(kind, wanted, known))


def nearest(kind: str, wanted: str, known: pl.Series) -> str:
    """A hint with the known ids that are most similar to `wanted`; a large vocabulary is first filtered by length, for
    speed.
    """
    if len(known) > 50_000:
        known = known.filter(known.str.len_chars().is_between(len(wanted) - 1, len(wanted) + 1)).head(50_000)
    found = difflib.get_close_matches(wanted, known.to_list(), n=3, cutoff=0.3)
    return f"nearest known: {', '.join(found)}" if found else f"{kind}s have the ids of the raw data"
