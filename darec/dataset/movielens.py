"""MovieLens-100K in both layouts it is found in: GroupLens's own, and RecBole's atomic files.

Both give the same tables: titles as "The Usual Suspects (1995)", attributes year and genres of an item, age, gender
and occupation of a user.
"""

from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from darec.dataset.raw import RawTable, attribute_list, scan_atomic, scan_delimited
from darec.dataset.sources import ORIGINAL
from schemas import columns as c

_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_ITEM_FIELDS = ("item_id", "title", "released", "video_released", "url", *_GENRES)
_UNKNOWN = ("unknown", "unkonwn")  # the one film without a name; RecBole's copy misspells it
_FETCH_AGAIN = "remove the folder and run `darec data fetch ml-100k`"
_TRAILING_ARTICLE = r"([^()]+), (The|An?|L[aeo]|Les|L'|Il|El|Los|Las|De[rn]|Die|Das|Une?|O)( ?[()]|$)"


def read(paths: dict[str, Path]) -> tuple[RawTable, RawTable, RawTable]:
    """Interactions, items and users of MovieLens-100K, opened lazily."""
    original = paths["interactions"].name == ORIGINAL["interactions"]
    interactions, items, users = _original(paths) if original else _atomic(paths)
    return _interactions(interactions, paths), _items(items, paths), _users(users, paths)


def _original(paths: dict[str, Path]) -> tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame]:
    interactions = _headless(paths["interactions"], "\t", (c.USER, c.ITEM, c.RATING, c.TIMESTAMP))
    items = _headless(paths["items"], "|", _ITEM_FIELDS)
    users = _headless(paths["users"], "|", (c.USER, "age", "gender", "occupation", "zip"))
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in _GENRES]
    return interactions, items.with_columns(genres=pl.concat_str(flags, separator=" ", ignore_nulls=True)), users


def _headless(path: Path, separator: str, names: tuple[str, ...]) -> pl.LazyFrame:
    rows = scan_delimited(path, separator, "latin-1", quote=None, header=False)
    found = rows.collect_schema().names()
    if len(found) != len(names):
        raise UserError(f"a row has {len(found)} fields, not {len(names)}", where=str(path), hint=_FETCH_AGAIN)
    return rows.rename(dict(zip(found, names, strict=True)))


def _atomic(paths: dict[str, Path]) -> tuple[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame]:
    interactions, items, users = (scan_atomic(paths[role]) for role in ("interactions", "items", "users"))
    name = pl.col("movie_title")
    full = pl.when(name.is_in(_UNKNOWN)).then(name).otherwise(pl.format("{} ({})", name, pl.col("release_year")))
    return interactions, items.select(c.ITEM, title=full, genres="class"), users


def _interactions(rows: pl.LazyFrame, paths: dict[str, Path]) -> RawTable:
    names = (c.USER, c.ITEM, c.RATING, c.TIMESTAMP)
    return RawTable(rows.select(names), paths["interactions"], {name: name for name in names})


def _items(rows: pl.LazyFrame, paths: dict[str, Path]) -> RawTable:
    title = natural_title(pl.col("title"))
    genres = pl.col("genres").str.split(" ").list.filter(pl.element() != "unknown").list.join(", ")
    year = pl.col("title").str.extract_all(r"\(\d{4}\)").list.last().str.strip_chars("()")
    tidy = rows.select(c.ITEM, title=title, year=year, genres=genres)
    described = tidy.select(
        c.ITEM, c.TITLE, pl.lit(None, pl.String).alias(c.DESCRIPTION), attribute_list(tidy, ("year", "genres"))
    )
    return RawTable(described, paths["items"], {c.ITEM: c.ITEM, c.TITLE: c.TITLE})


def _users(rows: pl.LazyFrame, paths: dict[str, Path]) -> RawTable:
    described = rows.select(c.USER, attribute_list(rows, ("age", "gender", "occupation")))
    return RawTable(described, paths["users"], {c.USER: c.USER})


def natural_title(title: pl.Expr) -> pl.Expr:
    """Articles back in front: "Hate (Haine, La) (1995)" becomes "Hate (La Haine) (1995)"."""
    tidy = title.str.replace_all(r"\s+", " ").str.strip_chars().replace(dict.fromkeys(_UNKNOWN, "unknown"))
    return tidy.str.replace_all(_TRAILING_ARTICLE, "$2 $1$3").str.replace_all("L' ", "L'", literal=True)
