"""Every public data set that a recipe can name, in the files that its publisher gives."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from darec.common.errors import UserError
from darec.common.strict_yaml import parse
from darec.dataset.clean import clean
from darec.dataset.inspect import inspect
from darec.dataset.readers import read_source
from schemas.data import DataConfig
from schemas.source_names import SOURCES
from tests.logs import ROWS, TITLES, dated, delimited

MOVIES = [[item, f'"{title}, The"', "Drama|Comedy"] for item, title in TITLES.items()]
MOVIELENS = {
    "ratings.csv": delimited(header=["userId", "movieId", "rating", "timestamp"]),
    "movies.csv": delimited(header=["movieId", "title", "genres"], table=MOVIES),
}


def lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def reviews(user: str, item: str, rating: str, time: str, per: int = 1) -> str:
    facts = {"reviewText": 'good, "very" good', "helpful": [0, 1], "vote": "3"}
    return lines({user: u, item: i, rating: float(r), time: t * per} | facts for u, i, r, t in ROWS)


def meta(item: str, **facts: object) -> str:
    return lines(
        {item: number, "title": f"{title} &amp; more", "description": ["a", "b"]} | facts
        for number, title in TITLES.items()
    )


def python_lines(text: str) -> str:
    """The 2014 files hold dictionaries as Python writes them."""
    return "".join(f"{json.loads(line)}\n" for line in text.splitlines())


TIMES_2023 = delimited(header=["user_id", "parent_asin", "rating", "timestamp"])
ABOUT_2023 = meta("parent_asin", main_category="Beauty", store="Acme", categories=["a", "b"], features=[])
FOLDERS: dict[str, dict[str, str]] = {
    "movielens-1m": {
        "ratings.dat": delimited("::", header=None),
        "movies.dat": delimited(
            "::", header=None, table=[[item, title, "Drama|Comedy"] for item, title in TITLES.items()]
        ),
        "users.dat": delimited("::", header=None, table=[[f"u{n + 1}", "F", 25, 3, "55117"] for n in range(12)]),
    },
    "movielens-20m": MOVIELENS,
    "movielens-latest": MOVIELENS | {"links.csv": "movieId,imdbId,tmdbId\ni1,1,1\n"},
    "amazon-reviews-2014": {
        "reviews_Beauty_5.json.gz": reviews("reviewerID", "asin", "overall", "unixReviewTime"),
        "meta_Beauty.json.gz": python_lines(meta("asin", brand="Acme", categories=[["Beauty", "Hair"]])),
    },
    "amazon-reviews-2014 ratings": {"ratings_Beauty.csv": delimited(header=None)},
    "amazon-reviews-2018": {
        "All_Beauty_5.json.gz": reviews("reviewerID", "asin", "overall", "unixReviewTime"),
        "meta_All_Beauty.json.gz": meta("asin", brand="Acme", category=["Beauty"]),
    },
    "amazon-reviews-2018 ratings": {
        "All_Beauty.csv": delimited(
            header=None, table=[(item, user, rating, time) for user, item, rating, time in ROWS]
        ),
        "meta_All_Beauty.json.gz": meta("asin", brand="Acme", category=["Beauty"]),
    },
    "amazon-reviews-2023": {
        "All_Beauty.jsonl.gz": reviews("user_id", "parent_asin", "rating", "timestamp", per=1000),
        "meta_All_Beauty.jsonl.gz": ABOUT_2023,
    },
    "amazon-reviews-2023 split": {
        **{f"All_Beauty.{part}.csv.gz": TIMES_2023.splitlines()[0] + "\n" for part in ("train", "valid", "test")},
        "meta_All_Beauty.jsonl.gz": ABOUT_2023,
    },
    "amazon-reviews-2023 ratings": {"All_Beauty.csv.gz": TIMES_2023},
    "yelp": {
        "yelp_academic_dataset_review.json": lines(
            {"review_id": "x", "user_id": user, "business_id": item, "stars": float(rating), "text": "a\nb"}
            | {"date": dated("%Y-%m-%d %H:%M:%S")(time)}
            for user, item, rating, time in ROWS
        ),
        "yelp_academic_dataset_business.json": lines(
            {"business_id": item, "name": title, "city": "Bern", "state": "BE", "categories": "Bars, Cafes"}
            for item, title in TITLES.items()
        ),
        "yelp_academic_dataset_user.json": lines({"user_id": f"u{n + 1}", "name": "N"} for n in range(12)),
    },
}
for number, part in enumerate(("train", "valid", "test")):
    FOLDERS["amazon-reviews-2023 split"][f"All_Beauty.{part}.csv.gz"] = delimited(
        header=TIMES_2023.splitlines()[0].split(","), table=ROWS[number::3]
    )


def write(folder: Path, case: str) -> None:
    for name, text in FOLDERS[case].items():
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def test_every_named_source_is_tried():
    described = {name for name, path in SOURCES.items() if path is not None}
    assert described - {case.split()[0] for case in FOLDERS} == {"movielens-100k"}, "which test_readers.py reads"


@pytest.mark.parametrize("case", FOLDERS)
def test_a_named_source_is_read_without_more(case, tmp_path):
    write(tmp_path, case)
    config = DataConfig(source=case.split()[0], folder=tmp_path, min_rating=None)
    found = clean(read_source(config, tmp_path / "copies"), config)
    rows = found.interactions.select("user_id", "item_id", "rating", "timestamp").rows()
    assert sorted(rows) == sorted((user, item, float(rating), time) for user, item, rating, time in ROWS)
    if any(name.startswith(("movies", "meta", "yelp_academic_dataset_business")) for name in FOLDERS[case]):
        title = dict(found.items.select("item_id", "title").iter_rows())["i1"]
        assert title in ("The Title of 1", "The The Title of 1", "The Title of 1 & more")


@pytest.mark.parametrize("case", ["movielens-1m", "movielens-20m", "amazon-reviews-2014", "yelp"])
def test_inspect_knows_the_folder_of_a_named_source(case, tmp_path):
    write(tmp_path, case)
    assert parse(inspect([str(tmp_path)]).yaml)["data"]["source"] == case


def test_an_empty_folder_says_where_the_files_are_from(tmp_path):
    with pytest.raises(UserError, match=r"yelp \(yelp_academic_dataset_review.json\*\) is not there.*yelp.com/dataset"):
        read_source(DataConfig(source="yelp", folder=tmp_path), tmp_path)
