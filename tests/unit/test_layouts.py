"""Every layout of a log that people have gives the same tables, and is described without being told."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest

from darec.common.errors import UserError
from darec.common.strict_yaml import parse
from darec.dataset.clean import clean
from darec.dataset.inspect import inspect
from darec.dataset.readers import read_source
from schemas.data import DataConfig
from tests.logs import BY_ITEM, BY_USER, LAYOUTS, ROWS, TITLES, Layout, dated, delimited


def read(data: dict):
    config = DataConfig.model_validate(data)
    with TemporaryDirectory() as copies:
        return clean(read_source(config, Path(copies)), config)


def expected(layout: Layout) -> list[tuple]:
    ids = layout.ids
    return sorted((ids(user), ids(item), float(rating), layout.times(time)) for user, item, rating, time in ROWS)


def found(data: dict) -> list[tuple]:
    table = read(data | {"min_rating": None}).interactions.select("user_id", "item_id", "rating", "timestamp")
    return [(user.replace("é", "u"), *rest) for user, *rest in table.rows()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_gives_the_same_interactions(layout, tmp_path, monkeypatch):
    layout.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert sorted(found(layout.data)) == expected(layout)


@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each.is_inspected], ids=lambda layout: layout.name)
def test_inspect_describes_every_layout_unaided(layout, tmp_path, monkeypatch):
    layout.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    places = layout.places or [name for name in layout.files if not Path(name).name.startswith((".", "_"))]
    section = parse(inspect(places).yaml)
    assert sorted(found(section["data"])) == expected(layout), section


@pytest.mark.parametrize(
    "names",
    [
        *(f"{user},{item}" for user in ("uid", "user_id", "u") for item in ("pid", "cid", "vid", "mid", "sku", "asin")),
        *("cid,pid", "cid,sku", "mid,asin", "vid,sku", "pid,vid", "pid,asin", "cid,vid"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True], ids=["user first", "item first"])
def test_short_names_are_users_or_items_by_the_other_column(names, swapped, tmp_path, monkeypatch):
    if swapped and names == "cid,vid":
        return  # both are unclear: the first is the user
    header = [*names.split(","), "at"]
    rows = [(user, item, time) for user, item, _, time in ROWS]
    order = [1, 0, 2] if swapped else [0, 1, 2]
    table = [[row[place] for place in order] for row in rows]
    (tmp_path / "log.csv").write_text(delimited(",", [header[place] for place in order], table))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["log.csv"]).yaml)["data"]
    assert {row[:2] for row in read(section).interactions.rows()} == {row[:2] for row in rows}


def test_descriptions_with_short_names_stay_descriptions(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text(delimited(",", ("user_id", "item_id"), [row[:2] for row in ROWS]))
    people = [(user, f"c{n % 3}", "1990-01-01") for n, user in enumerate(BY_USER)]
    (tmp_path / "people.csv").write_text(delimited(",", ("uid", "cid", "at"), people))
    things = [(item, f"c{n % 3}", title) for n, (item, title) in enumerate(TITLES.items())]
    (tmp_path / "things.csv").write_text(delimited(",", ("sku", "cid", "title"), things))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["log.csv", "people.csv", "things.csv"]).yaml)["data"]
    assert (section["interactions"], section["items"], section["users"]) == ("log.csv", "things.csv", "people.csv")


def test_a_matrix_of_ratings_is_a_log(tmp_path, monkeypatch):
    cells = {(user, item): rating for user, item, rating, _ in ROWS}
    table = [
        [len(rows), *(cells.get((user, f"i{item}"), 99) for item in range(1, 22))] for user, rows in BY_USER.items()
    ]
    (tmp_path / "jester.csv").write_text(delimited(header=None, table=table))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["jester.csv"]).yaml)["data"]
    assert section["interaction_format"]["skip_columns"] == 1
    rows = read(section | {"min_rating": None}).interactions.select("user_id", "item_id", "rating").rows()
    numbers = {user: str(number) for number, user in enumerate(BY_USER, 1)}
    assert sorted(rows) == sorted((numbers[user], item[1:], float(rating)) for user, item, rating, _ in ROWS)


def test_files_without_a_header_are_told_apart_by_the_ids_in_them(tmp_path, monkeypatch):
    clicks = [(n, user, dated("%m/%d/%Y %I:%M:%S %p")(time), "x1 x2", f"{item}-1 i99-0")
              for n, (user, item, _, time) in enumerate(ROWS)]  # fmt: skip
    news = [(item, "sports", "soccer", title, "https://x/" + item) for item, title in TITLES.items()]
    people = [(user, "mf"[n % 2], 20 + n, "Mexico", f"Feb {n + 1}, 2007") for n, user in enumerate(BY_USER)]
    for name, table in (("behaviors", clicks), ("news", news), ("people", people)):
        (tmp_path / f"{name}.tsv").write_text(delimited("\t", None, table))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["behaviors.tsv", "news.tsv", "people.tsv"]).yaml)["data"]
    assert (section["interactions"], section["items"], section["users"]) == ("behaviors.tsv", "news.tsv", "people.tsv")
    data = read(section)
    assert {(row[0], row[1]) for row in data.interactions.rows()} == {(user, item) for user, item, *_ in ROWS}
    assert dict(data.items.select("item_id", "title").rows()).items() >= TITLES.items()


def test_the_last_column_may_hold_the_separator(tmp_path, monkeypatch):
    (tmp_path / "ratings.txt").write_text(
        "".join(
            f"{item}:\n" + "".join(f"{u},{r},2005-09-06\n" for u, _, r, _ in rows) for item, rows in BY_ITEM.items()
        )
    )
    more = TITLES | {"i3": f"{TITLES['i3']}, i3, and more"}
    (tmp_path / "titles.csv").write_text("".join(f"{item},1990,{title}\n" for item, title in more.items()))
    monkeypatch.chdir(tmp_path)
    found = inspect(["ratings.txt", "titles.csv"])
    assert any("last_takes_rest" in doubt for doubt in found.doubts)
    titles = dict(read(parse(found.yaml)["data"]).items.select("item_id", "title").rows())
    assert titles == {item: title for item, title in more.items() if item in BY_ITEM}


def test_entities_in_titles_and_a_title_line_do_not_decide_the_separator(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text("exported by us\n" + delimited(";"))
    names = [(item, f"{title} &quot;{n}&#039;&quot;") for n, (item, title) in enumerate(TITLES.items())]
    (tmp_path / "things.csv").write_text(delimited(",", ("item_id", "name"), names))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["log.csv", "things.csv"]).yaml)["data"]
    assert section["interaction_format"] == {"separator": ";", "skip_lines": 1}
    assert section["item_columns"] == {"title": "name"}


def test_a_file_of_users_with_places_is_no_second_log(tmp_path, monkeypatch):
    (tmp_path / "ratings.csv").write_text(delimited(";", ("User-ID", "ISBN", "Book-Rating"), [row[:3] for row in ROWS]))
    books = [(item, title, "Ann Author") for item, title in TITLES.items()]
    (tmp_path / "books.csv").write_text(delimited(";", ("ISBN", "Book-Title", "Book-Author"), books))
    (tmp_path / "users.csv").write_text(
        delimited(";", ("User-ID", "Location", "Age"), [(user, "nyc, usa", "NULL") for user in BY_USER])
    )
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["ratings.csv", "books.csv", "users.csv"]).yaml)["data"]
    assert (section["interactions"], section["items"], section["users"]) == ("ratings.csv", "books.csv", "users.csv")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_within_a_large_object_is_found(indent, tmp_path, monkeypatch):
    lists = [{"pid": user, "note": "x" * 30_000, "tracks": [{"artist_name": "y", "track_uri": i} for _, i, *_ in rows]}
             for user, rows in BY_USER.items()]  # fmt: skip
    (tmp_path / "slice.json").write_text(json.dumps({"info": {"version": "v1"}, "playlists": lists}, indent=indent))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["slice.json"]).yaml)["data"]
    assert section["interaction_columns"] == {"user": "pid", "item": "tracks.track_uri"}
    assert {row[:2] for row in read(section).interactions.rows()} == {(user, item) for user, item, *_ in ROWS}


def test_titles_that_recur_are_titles(tmp_path, monkeypatch):
    (tmp_path / "ratings.dat").write_text(delimited("::", None))
    movies = [(item, f"The Title of {n % 3} (1990)", "Drama|Comedy") for n, item in enumerate(TITLES)]
    (tmp_path / "movies.dat").write_text(delimited("::", None, movies))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["ratings.dat", "movies.dat"]).yaml)["data"]
    assert section["item_columns"] == {"item": 1, "title": 2}


BASKETS = {user: [(user * item) % 23 for item in range(1, 5 + user % 4)] for user in range(1, 23)}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (lambda user, items: f"{user} {' '.join(f'{item}:{item % 5 + 1}' for item in items)}", "libsvm"),
        (lambda user, items: f"{user},{','.join(map(str, items))}", "commas"),
        (lambda user, items: f"{user}: {' '.join(map(str, items))}", "colons"),
        (lambda user, items: f"{len(items)} {' '.join(map(str, items))}", "citeulike"),
        (lambda user, items: "\n".join(f"{user},{item},{place}" for place, item in enumerate(items)), "orders"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_of_items(line, name, tmp_path, monkeypatch):
    header = "order_id,product_id,add_to_cart_order\n" if name == "orders" else ""
    (tmp_path / "log.txt").write_text(header + "".join(f"{line(*basket)}\n" for basket in BASKETS.items()))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["log.txt"]).yaml)["data"]
    rows = read(section | {"min_rating": None}).interactions.select("user_id", "item_id", "rating").rows()
    assert sorted(row[:2] for row in rows) == sorted((str(u), str(i)) for u, items in BASKETS.items() for i in items)
    if name == "libsvm":
        assert all(rating == int(item) % 5 + 1 for _, item, rating in rows)


def test_features_with_a_label_are_no_log(tmp_path):
    (tmp_path / "train.libfm").write_text("".join(f"{n % 5} {n}:1 {n + 90}:1{' 7:1' * (n % 2)}\n" for n in range(80)))
    with pytest.raises(UserError, match="features with a label"):
        inspect([str(tmp_path / "train.libfm")])
    (tmp_path / "train.txt").write_text("".join(f"{n % 3 % 2}\t{n % 7}\t{n:08x}\n" for n in range(80)))
    doubts = inspect([str(tmp_path / "train.txt")]).doubts
    assert any("only the values 0, 1: if they are labels" in doubt for doubt in doubts), doubts


@pytest.mark.parametrize(
    ("row", "setting", "title"),
    [
        ('"{item}";"Café \\"Roman\\"; {item}";"Günter"', {"escape": "\\"}, 'Café "Roman"; i1'),
        ('{item};MALICE "MIZER {item};x', {"quote": "none"}, 'MALICE "MIZER i1'),
    ],
    ids=["escaped", "literal"],
)
def test_quotes_in_titles(row, setting, title, tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text(delimited(header=("user_id", "item_id"), table=[row[:2] for row in ROWS]))
    lines = ['"ISBN";"Book-Title";"Author"' if setting.get("escape") else "id;title;author"]
    lines += [row.format(item=item) for item in TITLES]
    (tmp_path / "items.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["log.csv", "items.csv"]).yaml)["data"]
    assert setting.items() <= section["item_format"].items(), section
    assert title in read(section).items["title"].to_list()


def test_the_title_of_items_is_their_own(tmp_path, monkeypatch):
    (tmp_path / "counts.csv").write_text(delimited(header=("user_id", "track_id"), table=[row[:2] for row in ROWS]))
    tracks = [(item, "Some Artist", title) for item, title in TITLES.items()]
    (tmp_path / "tracks.csv").write_text(delimited(header=("track_id", "artist_name", "track_name"), table=tracks))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["counts.csv", "tracks.csv"]).yaml)["data"]
    assert section["item_columns"] == {"item": "track_id", "title": "track_name"}


def test_a_folder_of_different_tables_is_read_file_by_file(tmp_path, monkeypatch):
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "ratings.csv").write_text(delimited())
    (tmp_path / "ml" / "movies.csv").write_text(delimited(header=("item_id", "title"), table=list(TITLES.items())))
    (tmp_path / "ml" / "README.txt").write_text("These are not the columns of MovieLens-20M.")
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["ml"]).yaml)["data"]
    assert (section["interactions"], section["items"]) == ("ml/ratings.csv", "ml/movies.csv")
    assert len(read(section).interactions) > 0


@pytest.mark.parametrize("name", ["birthday", "release_date", "released"])
def test_dates_of_people_and_items_are_no_times(name, tmp_path):
    table = [(user, item, f"199{number % 10}-01-02") for number, (user, item, *_) in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(delimited(header=("user_id", "item_id", name), table=table))
    section = parse(inspect([str(tmp_path / "log.csv")]).yaml)
    assert "interaction_columns" not in section["data"] and section["split"] == {"strategy": "random"}


def test_a_file_of_properties_is_told_and_left_out(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text(delimited())
    table = [(item, name, f"{item}{name}") for item in TITLES for name in ("size", "colour")]
    (tmp_path / "properties.csv").write_text(delimited(header=("item_id", "property", "value"), table=table))
    monkeypatch.chdir(tmp_path)
    found = inspect(["log.csv", "properties.csv"])
    assert any("the file lists properties, not items" in doubt for doubt in found.doubts)
    assert {"items", "item_columns"}.isdisjoint(parse(found.yaml)["data"])


@pytest.mark.parametrize(
    ("name", "values", "doubt"),
    [
        ("is_click", [0, 1], "rows with 0 count as interactions too"),
        ("quantity", [3, -1], "rows of returned items count as interactions"),
    ],
)
def test_rows_that_are_no_likes_are_a_doubt(name, values, doubt, tmp_path):
    table = [(*row[:2], row[3], values[number % 2]) for number, row in enumerate(ROWS)]
    (tmp_path / "log.csv").write_text(delimited(header=("user_id", "item_id", "timestamp", name), table=table))
    assert any(doubt in each for each in inspect([str(tmp_path / "log.csv")]).doubts)


def test_forms_that_are_not_read_are_told_with_the_conversion(tmp_path):
    rows = pl.DataFrame(ROWS, schema=["user_id", "item", "r", "t"], orient="row")
    rows.group_by("user_id").agg(events=pl.struct("item", "t")).write_parquet(tmp_path / "lists.parquet")
    with pytest.raises(UserError, match="'events' holds several values per row.*explode"):
        inspect([str(tmp_path / "lists.parquet")])
    wide = [(user, *range(25)) for user in BY_USER]
    (tmp_path / "wide.csv").write_text(delimited(header=("user_id", *(f"p{n}" for n in range(25))), table=wide))
    with pytest.raises(UserError, match="a column per item.*unpivot"):
        inspect([str(tmp_path / "wide.csv")])


def test_lists_of_items_in_parquet_may_have_lists_of_times(tmp_path, monkeypatch):
    rows = pl.DataFrame([(row[0], row[1], row[3]) for row in ROWS], schema=["user", "item_ids", "times"], orient="row")
    rows.group_by("user").agg("item_ids", "times").write_parquet(tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    table = read(parse(inspect(["log.parquet"]).yaml)["data"]).interactions.select("user_id", "item_id", "timestamp")
    assert sorted(table.rows()) == sorted((user, item, time) for user, item, _, time in ROWS)


@pytest.mark.parametrize("form", [str, json.dumps, ",".join, "|".join, " ".join])
def test_lists_of_items_in_text(form, tmp_path, monkeypatch):
    table = [(user, form([item for _, item, *_ in rows])) for user, rows in BY_USER.items()]
    (tmp_path / "log.tsv").write_text(delimited("\t", ("user_id", "liked_items"), table))
    monkeypatch.chdir(tmp_path)
    rows = read(parse(inspect(["log.tsv"]).yaml)["data"]).interactions.select("user_id", "item_id").rows()
    assert sorted(rows) == sorted((user, item) for user, item, *_ in ROWS)


def lines_of(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_books_with_a_list_of_authors_are_items(tmp_path, monkeypatch):
    log = [{"user_id": user, "book_id": item, "rating": rating} for user, item, rating, _ in ROWS]
    facts = {"average_rating": "3.83", "publication_year": "1996", "description": "A book."}
    books = [
        {"book_id": item, "title": title, "authors": [{"author_id": str(number), "role": ""}], **facts}
        for number, (item, title) in enumerate(TITLES.items())
    ]
    (tmp_path / "log.json").write_text(lines_of(log))
    (tmp_path / "books.json").write_text(lines_of(books))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["books.json", "log.json"]).yaml)["data"]
    assert section["items"] == "books.json" and "users" not in section
    assert section["item_columns"] == {"item": "book_id", "description": "description"}


def test_the_key_of_items_is_the_column_that_the_log_names(tmp_path, monkeypatch):
    log = [{"username": user, "product_id": item, "date": dated("%Y-%m-%d")(time)} for user, item, _, time in ROWS]
    games = [{"app_name": f"Game {title}", "title": title, "id": item} for item, title in TITLES.items()]
    (tmp_path / "reviews.json").write_text("".join(f"{row}\n" for row in log))  # as Python writes it
    (tmp_path / "games.json").write_text("".join(f"{row}\n" for row in games))
    monkeypatch.chdir(tmp_path)
    found = inspect(["games.json", "reviews.json"])
    assert parse(found.yaml)["data"]["item_columns"] == {"item": "id"}
    assert not any("would be lost" in doubt for doubt in found.doubts)


def test_baskets_whose_users_are_in_another_file_are_told(tmp_path, monkeypatch):
    baskets = {user: str(100 + number) for number, user in enumerate(BY_USER)}
    orders = [[order, user] for user, order in baskets.items()]
    lines = [[baskets[user], item, number] for number, (user, item, *_) in enumerate(ROWS)]
    (tmp_path / "orders.csv").write_text(delimited(header=["order_id", "user_id"], table=orders))
    (tmp_path / "lines.csv").write_text(delimited(header=["order_id", "product_id", "add_to_cart_order"], table=lines))
    names = ["product_id", "product_name", "aisle_id"]
    products = [[item, title, 1 + number % 3] for number, (item, title) in enumerate(TITLES.items())]
    (tmp_path / "products.csv").write_text(delimited(header=names, table=products))
    aisles = [[number, f"aisle {number}"] for number in range(1, 4)]
    (tmp_path / "aisles.csv").write_text(delimited(header=["aisle_id", "aisle"], table=aisles))
    monkeypatch.chdir(tmp_path)
    found = inspect(["aisles.csv", "lines.csv", "orders.csv", "products.csv"])
    assert any("orders.csv has the 'user_id' of each 'order_id': join both files" in doubt for doubt in found.doubts)
    section = parse(found.yaml)["data"]
    assert section["items"] == "products.csv" and "users" not in section, "aisles are not what the log names"


def test_events_in_a_session_have_types_and_hours_may_be_without_minutes(tmp_path, monkeypatch):
    kinds = ("clicks", "carts", "orders")
    sessions = [
        {
            "session": user,
            "events": [{"aid": row[1], "ts": row[3] * 1000, "type": kinds[n % 3]} for n, row in enumerate(rows)],
        }
        for user, rows in ((user, [row for row in ROWS if row[0] == user]) for user in BY_USER)
    ]
    (tmp_path / "sessions.jsonl").write_text(lines_of(sessions))
    monkeypatch.chdir(tmp_path)
    section = parse(inspect(["sessions.jsonl"]).yaml)["data"]
    assert section["interaction_columns"]["event"] == "events.type"
    assert section["events"] == {"carts": 3, "clicks": 1, "orders": 5}

    hours = [
        [user, item, f"2014-12-{1 + number % 28:02d} {number % 24:02d}"] for number, (user, item, *_) in enumerate(ROWS)
    ]
    (tmp_path / "hours.csv").write_text(delimited(header=["user_id", "item_id", "time"], table=hours))
    section = parse(inspect(["hours.csv"]).yaml)["data"]
    times = read(section).interactions["timestamp"]
    assert section["interaction_columns"] == {"timestamp": "time"} and times.null_count() == 0


@pytest.mark.parametrize("text", ["{'a': <x>, 'b': 2}\n" * 2, '{"a": }\n', ",,\n" * 3, "[]", "{}\n{}\n", "null\n"])
def test_a_file_without_values_is_one_clear_line(text, tmp_path):
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(UserError, match="no value can be read from the file|no file looks like interactions"):
        inspect([str(tmp_path / "log.json")])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (json.dumps({"user_id": {str(n): n for n in range(900)}, "item_id": {"0": 1, "1": 2}}), "one JSON object with"),
        (json.dumps({"u1": ["i1", "i2"], "u2": ["i1"]}), "one JSON object with"),
        ("[1, 2]\n[1, 3]\n", "JSON arrays, without names"),
        ("<!DOCTYPE html><html><table><tr><td>1</td></tr></table>", "an HTML page"),
        ('<?xml version="1.0"?>\n<votes>\n', "XML"),
        ("INSERT INTO `log` VALUES (1,2),(3,4);\n", "an SQL dump"),
    ],
)
def test_what_holds_no_rows_is_told(text, what, tmp_path):
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(UserError, match=what):
        inspect([str(tmp_path / "log.json")])


def test_bytes_that_are_not_text_are_ids_in_hexadecimal(tmp_path, monkeypatch):
    ids = {user: bytes([number, 255, 0, 200]) for number, user in enumerate(BY_USER)}
    frame = pl.DataFrame({"user_id": [ids[row[0]] for row in ROWS], "item_id": [row[1].encode() for row in ROWS]})
    frame.write_parquet(tmp_path / "log.parquet")
    monkeypatch.chdir(tmp_path)
    rows = read(parse(inspect(["log.parquet"]).yaml)["data"]).interactions.select("user_id", "item_id").rows()
    assert sorted(rows) == sorted((ids[user].hex(), item) for user, item, *_ in ROWS)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["CUSTOMER_ID", "PIN_CODE", "PRODUCT_ID", "TRANSACTION_DT"], ["CUSTOMER_ID", "PRODUCT_ID", "TRANSACTION_DT"]),
        (["Email", "Lineitem quantity", "Lineitem sku", "Created at"], ["Email", "Lineitem sku", "Created at"]),
        (["user_pseudo_id", "platform", "item_id", "event_date"], ["user_pseudo_id", None, "event_date"]),
    ],
)
def test_names_of_shops_and_of_analytics(names, columns, tmp_path, monkeypatch):
    table = [[f"{user}@x.org", 115, item, dated("%m/%d/%Y")(time)] for user, item, _, time in ROWS]
    (tmp_path / "log.csv").write_text(delimited(header=names, table=table))
    monkeypatch.chdir(tmp_path)
    found = parse(inspect(["log.csv"]).yaml)["data"]["interaction_columns"]
    assert [found.get(meaning) for meaning in ("user", "item", "timestamp")] == columns


def test_rows_of_the_items_file_that_nobody_has_interacted_with_are_counted(tmp_path):
    (tmp_path / "log.csv").write_text(delimited())
    lines = ["item_id,title", *(f"{item},{title}" for item, title in TITLES.items())]
    remarks = []
    for catalogue in (lines, [*lines, "i98,New", "i99,Newer"]):
        (tmp_path / "items.csv").write_text("\n".join(catalogue))
        doubts = inspect([str(tmp_path / "log.csv"), str(tmp_path / "items.csv")]).doubts
        remarks.append([doubt for doubt in doubts if "have no interactions" in doubt])
    said = "2 of 11 rows of the items file have no interactions: split.items: all keeps them in the release"
    assert remarks == [[], [said]]
