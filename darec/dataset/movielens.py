"""The items of MovieLens-100K in both layouts: that of GroupLens, and the atomic file of RecBole.

Both give the same table: titles as "The Usual Suspects (1995)", attributes year and genres.
"""

from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from darec.dataset.formats import FORMATS, completed, open_file
from darec.dataset.raw import MORE_FIELDS
from darec.dataset.unpack import Scratch
from schemas import columns as c
from schemas.data import FileFormat

_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_ITEM_FIELDS = ("item_id", "title", "released", "video_released", "url", *_GENRES)
_UNKNOWN = ("unknown", "unkonwn")  # the only film without a title; RecBole's copy misspells it
_FETCH_AGAIN = "remove the folder and run `darec data fetch ml-100k`"
_TRAILING_ARTICLE = r"([^()]+), (The|An?|L[aeo]|Les|L'|Il|El|Los|Las|De[rn]|Die|Das|Une?|O)( ?[()]|$)"


@FORMATS.register("movielens-100k-items")
def read_items(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """Columns item_id, title, year and genres."""
    rows = _original(path, form, scratch) if path.name == "u.item" else _atomic(path, form, scratch)
    genres = pl.col("genres").str.split(" ").list.filter(pl.element() != "unknown").list.join(", ")
    year = pl.col("title").str.extract_all(r"\(\d{4}\)").list.last().str.strip_chars("()")
    return rows.select(c.ITEM, title=natural_title(pl.col("title")), year=year, genres=genres)


def _original(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    layout = FileFormat(separator="|", header=False, quote="none", names=_ITEM_FIELDS)
    rows = open_file(path, completed(layout, "csv", form.encoding or "latin-1"), scratch)
    if (found := len(rows.drop(MORE_FIELDS).collect_schema())) != len(_ITEM_FIELDS):
        raise UserError(f"a row has {found} fields, not {len(_ITEM_FIELDS)}", where=str(path), hint=_FETCH_AGAIN)
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in _GENRES]
    return rows.with_columns(genres=pl.concat_str(flags, separator=" ", ignore_nulls=True))


def _atomic(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    rows = open_file(path, completed(FileFormat(), "recbole", form.encoding or "utf-8"), scratch)
    name = pl.col("movie_title")
    full = pl.when(name.is_in(_UNKNOWN)).then(name).otherwise(pl.format("{} ({})", name, pl.col("release_year")))
    return rows.select(c.ITEM, title=full, genres="class")


def natural_title(title: pl.Expr) -> pl.Expr:
    """Moves articles back to the front: "Hate (Haine, La) (1995)" becomes "Hate (La Haine) (1995)"."""
    tidy = title.str.replace_all(r"\s+", " ").str.strip_chars().replace(dict.fromkeys(_UNKNOWN, "unknown"))
    return moved_articles(tidy)


def moved_articles(title: pl.Expr) -> pl.Expr:
    """Moves trailing articles back to the front: "Matrix, The (1999)" becomes "The Matrix (1999)"."""
    return title.str.replace_all(_TRAILING_ARTICLE, "$2 $1$3").str.replace_all("L' ", "L'", literal=True)
