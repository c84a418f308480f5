"""Converts rows to likes and dislikes: a threshold for ratings, weights of events and age, one row per pair."""

import polars as pl

from darec.common.ranges import by_users
from darec.dataset import times
from darec.dataset.errors import AnswerableError
from darec.dataset.ratings import scale_of
from darec.dataset.raw import RawTable
from schemas import columns as c
from schemas.data import DataConfig
from schemas.tables import PARTS

_DAY = 86_400 * times.SECOND
_UNREAD = {  # maps the meaning of an unread column to its usual names, ignoring case, blanks and underscores
    "rating": {"rating", "ratings", "stars", "score", "overall", "liked", "rate"},
    "event": {"event", "eventtype", "action", "actiontype", "behavior", "behaviortype", "behaviour", "actid"},
    "timestamp": {"timestamp", "time", "ts", "date", "datetime", "unixreviewtime", "createdat"},
}
_WITHOUT = {"rating": "every row is a like", "event": "all events count alike", "timestamp": "rows have no order"}


def threshold_of(raw: RawTable, ratings: pl.Series, config: DataConfig) -> tuple[float, list[str]]:
    """The minimum rating of a like, and doubts about it.

    Raises:
        UserError: the default threshold does not suit the ratings, or a threshold is set and no rating is read.
    """
    is_set = "min_rating" in config.model_fields_set
    if c.RATING not in raw.names:
        unread = _named_like(raw, "rating")
        if is_set and config.min_rating is not None and unread and not _says_no(config, "rating"):
            what = f"data.min_rating is {config.min_rating:g}, and no rating is read; the file has a column {unread!r}"
            hint = f"set data.interaction_columns.rating: {unread}, or data.min_rating: null"
            settings = {"data": {"interaction_columns": {"rating": unread}}}
            raise AnswerableError(what, where=str(raw.path), hint=hint, settings=settings)
        return float("-inf"), []

    scale = scale_of(ratings)
    if config.min_rating is None or scale is None:
        return float("-inf"), []
    if not scale.is_stars and not is_set:
        suggested = "null (every row is a like)" if scale.suggestion is None else f"{scale.suggestion:g}"
        what = f"the ratings are {scale.words}: the default threshold of 4 is for ratings from 1 to 5"
        hint, settings = f"set data.min_rating, such as {suggested}", {"data": {"min_rating": scale.suggestion}}
        raise AnswerableError(what, where=raw.place(c.RATING), hint=hint, settings=settings)

    doubts = []
    if bool((ratings >= config.min_rating).all()):
        doubts = [f"the ratings are {scale.words}, none below data.min_rating ({config.min_rating:g}): all are likes"]
    return config.min_rating, doubts


def weighted(rows: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    """Adds the column `weight`: the weight of the event type, halved for every half-life of age.

    There is no such column unless the configuration defines weights (`DataConfig.has_weights`).
    """
    if not config.has_weights:
        return rows.drop("event")

    weight = pl.lit(1.0)
    if config.events is not None:
        weight = pl.col("event").cast(pl.String).replace_strict(config.events, return_dtype=pl.Float64)
    if config.half_life_days is not None:
        age = (pl.col("time").max() - pl.col("time")) / _DAY
        weight = weight * pl.lit(2.0).pow(-age / config.half_life_days)

    return rows.with_columns(weight=weight.cast(pl.Float32)).drop("event")


def one_of_each_pair(rows: pl.DataFrame, items: int, config: DataConfig) -> pl.DataFrame:
    """One row per (user, item) pair, sorted by both: the train row, else the latest, else the best rated.

    Only rows of repeated pairs are compared with each other. With weights, the latest row determines whether the pair
    is a like or a dislike, and rows of the other sign are ignored.
    """
    return by_users(rows, "user", lambda some: _one_of_each_pair(some, items, config))


def _one_of_each_pair(rows: pl.DataFrame, items: int, config: DataConfig) -> pl.DataFrame:
    rows = rows.with_columns(pair=pl.col("user").cast(pl.Int64) * items + pl.col("item")).sort("pair")
    is_repeated = (pl.col("pair") == pl.col("pair").shift()) | (pl.col("pair") == pl.col("pair").shift(-1))
    rows = rows.with_columns(is_repeated=is_repeated.fill_null(False))
    repeated = rows.filter("is_repeated")
    if repeated.is_empty():
        return rows.drop("pair", "is_repeated")

    keys = {"pair": False, "later_part": False, "time": True, "rating": True, "split": False}
    ordered = repeated.with_columns(later_part=pl.col("split") != PARTS[0]).sort(
        list(keys), descending=list(keys.values()), nulls_last=True
    )
    if "weight" in ordered.columns:
        size = pl.col("weight").abs()
        counts = pl.col("weight").sign() == pl.col("weight").first().sign().over("pair")
        total = pl.when(counts).then(size)
        total = (total.sum() if config.repeats == "sum" else total.max()).over("pair")
        ordered = ordered.with_columns(weight=(total * pl.col("weight").sign()).cast(pl.Float32))

    first = ordered.unique("pair", keep="first", maintain_order=True).drop("later_part")
    single = rows.filter(~pl.col("is_repeated"))
    return single.merge_sorted(first, key="pair").drop("pair", "is_repeated")


def verdicts(threshold: float, config: DataConfig) -> tuple[pl.Expr, pl.Expr | None]:
    """Which pairs are likes, and which are dislikes (None if the recipe names none)."""
    liked = (pl.col("rating") >= threshold) | pl.col("rating").is_null()
    disliked = None
    if config.dislike_below is not None:
        disliked = (pl.col("rating") < config.dislike_below).fill_null(False)
    if config.events is not None and min(config.events.values()) < 0:
        by_event = pl.col("weight") < 0
        disliked = by_event if disliked is None else disliked | by_event
    return (liked if disliked is None else liked & ~disliked), disliked


def unread_columns(raw: RawTable, config: DataConfig) -> list[str]:
    """Doubts about unread columns that look like a rating, an event type or a time."""
    doubts = []
    for what, meaning in _WITHOUT.items():
        name = _named_like(raw, what)
        if name is not None and getattr(config.interaction_columns, what) is None and not _says_no(config, what):
            setting = f"set data.interaction_columns.{what}: {name}, or to null"
            doubts.append(f"the column {name!r} is not read, so {meaning}; {setting}")
    return doubts


def _named_like(raw: RawTable, what: str) -> str | None:
    return next((name for name in raw.unread if name.lower().replace("_", "").replace(" ", "") in _UNREAD[what]), None)


def _says_no(config: DataConfig, what: str) -> bool:
    """Whether the recipe explicitly sets this column to null."""
    return what in config.interaction_columns.model_fields_set and getattr(config.interaction_columns, what) is None
