"""Every layout of source data gives the same tables."""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from darec.dataset.clean import CleanData, clean
from darec.dataset.readers import read_source
from darec.dataset.sources import source_files
from schemas.data import DataConfig, InteractionColumns, ItemColumns, UserColumns
from schemas.tables import INTERACTIONS, ITEMS, USERS
from tests.data import write_checkerboard

COLUMNS = InteractionColumns(rating="rating", timestamp="timestamp", split="split")
ITEM_COLUMNS = ItemColumns(description="description")


def read(config: DataConfig) -> CleanData:
    with TemporaryDirectory() as copies:
        return clean(read_source(config, Path(copies)), config)


def checkerboard(folder: Path, source: str, suffix: str) -> DataConfig:
    paths = {role: folder / f"{role}.{suffix}" for role in ("interactions", "items", "users")}
    return DataConfig(source=source, **paths, interaction_columns=COLUMNS, item_columns=ITEM_COLUMNS)


def write_as(folder: Path, source: str, suffix: str) -> None:
    for role in ("interactions", "items", "users"):
        table, path = pl.read_csv(folder / f"{role}.csv"), folder / f"{role}.{suffix}"
        match source:
            case "tsv":
                table.write_csv(path, separator="\t")
            case "parquet":
                table.write_parquet(path)
            case "recbole":
                table.rename(lambda name: f"{name}:token").write_csv(path, separator="\t", quote_style="never")


@pytest.mark.parametrize(("source", "suffix"), [("tsv", "tsv"), ("parquet", "parquet"), ("recbole", "atomic")])
def test_every_format_gives_the_tables_that_csv_gives(tmp_path, source, suffix):
    write_checkerboard(tmp_path)
    write_as(tmp_path, source, suffix)
    expected, found = (read(checkerboard(tmp_path, *form)) for form in (("csv", "csv"), (source, suffix)))
    for name in ("interactions", "items", "users"):
        assert_frame_equal(getattr(found, name), getattr(expected, name))
    assert found.report == expected.report


def test_tables_follow_their_schemas_and_hold_what_the_files_say(tmp_path):
    write_checkerboard(tmp_path, users=4, items=4)
    data = read(checkerboard(tmp_path, "csv", "csv"))
    assert data.interactions.schema == INTERACTIONS
    assert data.items.schema == ITEMS
    assert data.users.schema == USERS
    assert data.items.row(1, named=True) == {
        "item_id": "i001",
        "title": "Haunted Cellar 1",
        "description": "A dark story full of ghosts.",
        "attributes": [{"name": "year", "value": "1981"}, {"name": "genres", "value": "Horror"}],
    }
    assert data.users.row(0) == ("u000", [{"name": "age", "value": "20"}, {"name": "gender", "value": "F"}])


def test_only_mapped_attributes_are_taken_in_the_given_order(tmp_path):
    write_checkerboard(tmp_path, users=4, items=4)
    config = checkerboard(tmp_path, "csv", "csv").model_copy(
        update={
            "item_columns": ItemColumns(title=None, description="title", attributes=("genres", "year")),
            "user_columns": UserColumns(attributes=()),
        }
    )
    data = read(config)
    assert data.items.row(0, named=True) == {
        "item_id": "i000",
        "title": "i000",
        "description": "Merry Picnic 0",
        "attributes": [{"name": "genres", "value": "Comedy"}, {"name": "year", "value": "1980"}],
    }
    assert data.users["attributes"].list.len().sum() == 0


def test_without_tables_users_and_items_are_known_by_their_ids(tmp_path):
    write_checkerboard(tmp_path, users=4, items=4)
    config = DataConfig(source="csv", interactions=tmp_path / "interactions.csv")
    data = read(config)
    assert data.items["title"].to_list() == ["i000", "i001", "i002", "i003"]
    assert data.users["user_id"].to_list() == ["u000", "u001", "u002", "u003"]
    assert data.interactions["timestamp"].null_count() == data.interactions.height


def test_parquet_types_whole_number_ids_dates_and_lists(tmp_path):
    from datetime import UTC, datetime

    when = datetime(2024, 5, 1, tzinfo=UTC)
    pl.DataFrame({"u": [7, 10], "i": pl.Series([1, 2], dtype=pl.UInt16), "t": [when, when]}).write_parquet(
        tmp_path / "x.parquet"
    )
    pl.DataFrame({"item_id": [1, 2], "tags": [["a", "b"], []], "year": [1999, None]}).write_parquet(
        tmp_path / "i.parquet"
    )
    config = DataConfig(
        source="parquet",
        interactions=tmp_path / "x.parquet",
        items=tmp_path / "i.parquet",
        interaction_columns=InteractionColumns(user="u", item="i", timestamp="t"),
        item_columns=ItemColumns(title=None),
    )
    data = read(config)
    assert data.interactions["user_id"].to_list() == ["10", "7"]
    assert data.interactions["timestamp"].to_list() == [1714521600] * 2
    assert data.items["attributes"].to_list() == [
        [{"name": "tags", "value": "a, b"}, {"name": "year", "value": "1999"}],
        [],
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("881250949", 881250949),
        ("8.81250949e8", 881250949),
        (" 881250949 ", 881250949),
        ("2024-01-02", 1704153600),
        ("2024-01-02 03:04:05", 1704164645),
        ("2024-01-02T03:04:05Z", 1704164645),
        ("2024-01-02T03:04:05.25+02:00", 1704157445),
    ],
)
def test_timestamps_as_text(tmp_path, text, seconds):
    (tmp_path / "x.csv").write_text(f"user_id,item_id,t\na,b,{text}\n")
    config = DataConfig(
        source="csv", interactions=tmp_path / "x.csv", interaction_columns=InteractionColumns(timestamp="t")
    )
    assert read(config).interactions["timestamp"].to_list() == [seconds]


def test_source_files_names_only_what_is_given(tmp_path):
    write_checkerboard(tmp_path, users=4, items=4)
    config = DataConfig(source="csv", interactions=tmp_path / "interactions.csv", users=tmp_path / "users.csv")
    assert list(source_files(config)) == ["interactions", "users"]


RATINGS = [("1", "12", "5", "881250949"), ("2", "113", "4", "881250950"), ("2", "267", "2", "881250951")]
FILMS = [  # id, GroupLens's title, RecBole's title and year, genres, the title and year that both must give
    ("12", "Usual Suspects, The (1995)", "Usual Suspects, The\t1995", "Crime Thriller", "The Usual Suspects (1995)"),
    ("113", "Horseman on the Roof, The (Hussard sur le toit, Le) (1995)",
     "Horseman on the Roof, The (Hussard sur le toit, Le)\t1995", "Drama",
     "The Horseman on the Roof (Le Hussard sur le toit) (1995)"),
    ("267", "unknown", "unkonwn\tunkonwn", "unknown", "unknown"),
    ("543", "Misérables, Les (1995)", "Misérables, Les\t1995", "Drama Musical", "Les Misérables (1995)"),
    ("1068", "Star Maker, The (Uomo delle stelle, L') (1995)", "Star Maker, The (Uomo delle stelle, L')\t1995", "Drama",
     "The Star Maker (L'Uomo delle stelle) (1995)"),
    ("1201", "Marlene Dietrich: Shadow and Light (1996) ", "Marlene Dietrich: Shadow and Light\t1996", "Documentary",
     "Marlene Dietrich: Shadow and Light (1996)"),
    ("1412", "Land Before Time III: The Time of the Great Giving (1995) (V)",
     "Land Before Time III: The Time of the Great Giving (1995)\tV", "Animation Children's",
     "Land Before Time III: The Time of the Great Giving (1995) (V)"),
]  # fmt: skip
GENRES = "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical"
GENRES = [*GENRES.split(), "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"]


def write_original(folder: Path) -> None:
    folder.mkdir()
    (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in RATINGS))
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    lines = []
    for number, title, _, genres, _ in FILMS:
        flags = [str(int(genre in genres.split())) for genre in GENRES]
        released = ["", "", ""] if title == "unknown" else ["01-Jan-1995", "", "http://us.imdb.com/M/title-exact?x"]
        lines.append("|".join([number, title, *released, *flags]) + "\n")
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")


def write_atomic(folder: Path) -> None:
    folder.mkdir()
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(head + "".join("\t".join(row) + "\n" for row in RATINGS))
    head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    (folder / "ml-100k.user").write_text(head + "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    (folder / "ml-100k.item").write_text(head + "".join(f"{n}\t{title}\t{g}\n" for n, _, title, g, _ in FILMS))


def test_both_movielens_layouts_give_the_same_tables(tmp_path):
    write_original(tmp_path / "original")
    write_atomic(tmp_path / "atomic")
    original, atomic = (read(DataConfig(folder=tmp_path / name)) for name in ("original", "atomic"))
    for name in ("interactions", "items", "users"):
        assert_frame_equal(getattr(original, name), getattr(atomic, name))


def test_movielens_titles_attributes_and_threshold(tmp_path):
    write_original(tmp_path / "original")
    data = read(DataConfig(folder=tmp_path / "original"))
    assert dict(data.items.select("item_id", "title").iter_rows()) == {film[0]: film[4] for film in FILMS}
    attributes = dict(data.items.select("item_id", "attributes").iter_rows())
    assert attributes["1412"] == [
        {"name": "year", "value": "1995"},
        {"name": "genres", "value": "Animation, Children's"},
    ]
    assert attributes["267"] == []
    assert data.users.row(0)[1] == [
        {"name": "age", "value": "24"},
        {"name": "gender", "value": "M"},
        {"name": "occupation", "value": "technician"},
    ]
    assert data.interactions["item_id"].to_list() == ["12", "113"]
    assert data.report["left_out"]["below_min_rating"] == 1
