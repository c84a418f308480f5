"""Ids, times, ratings, events and texts judged by their values: repaired and told, or refused with the setting."""

import gzip
import os
from pathlib import Path

import polars as pl
import pytest

from darec.common.errors import UserError
from darec.dataset.clean import CleanData, clean
from darec.dataset.readers import read_source
from schemas.data import DataConfig
from tests.logs import COLUMNS, CSV, FRAME, ITEMS, ROWS, TITLES, USERS, delimited, parquet, timed

CATALOGUE = delimited(header=("item_id", "title"), table=TITLES.items())


def read(folder: Path, log: str | bytes = CSV, items: str | bytes | None = None, **data) -> CleanData:
    options = {"source": "csv", "interactions": "log.csv", "interaction_columns": COLUMNS, "min_rating": None} | data
    for name, content in (("log.csv", log), ("items.csv", items)):
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if items is not None:
        options["items"] = str(folder / "items.csv")
    if isinstance(options["interactions"], str):
        options["interactions"] = str(folder / options["interactions"])
    config = DataConfig.model_validate({key: value for key, value in options.items() if value is not ...})
    return clean(read_source(config, folder / "unpacked"), config)


def ids(change, column: int = 1) -> str:
    """The log with other ids in one column; `change` gets the row's number and the id."""
    table = [[*row[:column], change(number, row[column]), *row[column + 1 :]] for number, row in enumerate(ROWS)]
    return delimited(table=table)


def number(name: str) -> str:
    return name[1:]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda n, item: f" {item}" if n % 2 else item, "blanks"),
        (lambda n, item: f"{item}\u200b" if n % 2 else item, "invisible"),
        (lambda n, item: f"{item}\u00a0" if n % 2 else item, "blanks"),
        (lambda n, item: number(item) + (".0" if n % 2 else ""), r"\.0"),
        (lambda n, item: f"cafe\u0301{item}" if n % 2 else f"caf\u00e9{item}", "Unicode"),
    ],
)
def test_ids_that_differ_by_nothing_are_one(tmp_path, change, note):
    data = read(tmp_path, ids(change))
    assert data.report["items"] == ITEMS and data.report["rows_out"] == len(ROWS)
    assert any(note.replace("\\", "") in line for line in data.report["notes"]), data.report["notes"]


def test_whole_floats_lose_their_point_unless_others_have_fractions(tmp_path):
    assert set(read(tmp_path, ids(lambda n, item: number(item) + ".0")).interactions["item_id"]) == set("123456789")
    versions = read(tmp_path, ids(lambda n, item: f"{number(item)}.{n % 2}"), merge_ids=[])
    assert {"1.0", "1.1"} <= set(versions.interactions["item_id"])


@pytest.mark.parametrize(
    ("change", "kind", "merged"),
    [
        (lambda n, item: item.upper() if n % 2 else item, "case", ITEMS),
        (lambda n, item: number(item).zfill(4) if n % 2 else number(item), "zeros", ITEMS),
        (lambda n, item: f"a  {item}" if n % 2 else f"a {item}", "spaces", ITEMS),
    ],
)
def test_near_twins_are_named_and_refused_until_the_recipe_speaks(tmp_path, change, kind, merged):
    with pytest.raises(UserError, match=rf"a variant, such as .* and .*data.merge_ids: \[{kind}\]"):
        read(tmp_path, ids(change))
    assert read(tmp_path, ids(change), merge_ids=[kind]).report["items"] == merged
    assert read(tmp_path, ids(change), merge_ids=[]).report["items"] > merged
    told = read(tmp_path, ids(lambda n, item: change(1, item) if n == 4 else change(0, item)))
    assert any("a variant" in doubt for doubt in told.report["doubts"])


@pytest.mark.parametrize("word", ["", "NA", "nan", "null", "None", "\\N", "-", "<NA>", "undefined", "N/A"])
def test_words_for_missing_are_no_ids(tmp_path, word):
    data = read(tmp_path, ids(lambda n, user: word if n % 20 == 3 else user, 0))
    assert word not in set(data.users["user_id"])
    assert data.report["lost"]["empty_user"]["rows"] == sum(n % 20 == 3 for n in range(len(ROWS)))
    kept = read(tmp_path, ids(lambda n, user: word if n % 20 == 3 else user, 0), interaction_format={"null_values": []})
    assert kept.report["users"] == USERS + (word != "")


def test_one_limit_for_every_lost_row(tmp_path):
    log = ids(lambda n, item: "null" if n < 5 else "unknown" if n < 9 else item)
    assert read(tmp_path, log, CATALOGUE, max_bad_share=0.15).report["rows_out"] == len(ROWS) - 9
    with pytest.raises(
        UserError, match=r"9 of \d+ rows would be lost \(empty_item 5, unknown_item 4\), such as 'null'"
    ):
        read(tmp_path, log, CATALOGUE)


@pytest.mark.parametrize(
    ("change", "setting"), [(str.upper, "case"), (lambda item: f"00{number(item)}", "zeros")], ids=["case", "zeros"]
)
def test_an_unknown_item_names_the_nearest_and_its_setting(tmp_path, change, setting):
    plain = number if setting == "zeros" else str
    catalogue = delimited(header=("item_id", "title"), table=[(plain(item), title) for item, title in TITLES.items()])
    log = ids(lambda n, item: change(item) if n % 3 == 0 else plain(item))
    with pytest.raises(UserError, match=rf"unknown_item.*nearest in the items '.*merge_ids: \[{setting}\]"):
        read(tmp_path, log, catalogue, merge_ids=[])
    data = read(tmp_path, log, catalogue, merge_ids=[setting])
    assert data.report["rows_out"] == len(ROWS) and set(data.items["title"]) == set(TITLES.values())


def test_items_that_a_catalogue_lacks_can_be_kept(tmp_path):
    half = "".join(CATALOGUE.splitlines(keepends=True)[:5])
    with pytest.raises(UserError, match="data.unknown_items: keep"):
        read(tmp_path, CSV, half)
    data = read(tmp_path, CSV, half, unknown_items="keep")
    assert data.items.filter(item_id="i9")["title"].to_list() == ["i9"] and data.report["items"] == ITEMS


@pytest.mark.parametrize("value", ["1E+16", "1.23457E+12", "-2.5e+07"])
def test_ids_that_a_spreadsheet_has_rounded_are_lost(tmp_path, value):
    data = read(tmp_path, ids(lambda n, item: value if n % 20 == 0 else item))
    assert data.report["lost"]["mangled_item"]["example"] == repr(value)
    assert read(tmp_path, ids(lambda n, item: "12e45678" if n % 20 == 0 else item)).report["lost"] == {}


def test_times_that_a_spreadsheet_has_rounded_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"not_a_time.*such as '1.50\d*E\+09'.*all digits"):
        read(tmp_path, timed(lambda t: f"{t:.2E}"))


@pytest.mark.parametrize("time", ["0", "-5", "9999-12-31", "0001-01-01 00:00:00", "32503680000", "1970-01-02"])
def test_times_that_cannot_be_are_counted_and_many_refused(tmp_path, time):
    log = delimited(table=[(u, i, r, time if n % 20 == 0 else t) for n, (u, i, r, t) in enumerate(ROWS)])
    lost = read(tmp_path, log).report["lost"]
    assert sum(found["rows"] for found in lost.values()) == 5 and set(lost) <= {"implausible_time", "not_a_time"}
    with pytest.raises(UserError, match="between 1990 and tomorrow|timestamp_format"):
        read(tmp_path, timed(lambda t: time))


def test_numbers_that_only_order_rows_must_be_called_so(tmp_path):
    log = delimited(table=[(u, i, r, n) for n, (u, i, r, _) in enumerate(ROWS)])
    with pytest.raises(UserError, match="data.timestamp_unit .`order`"):
        read(tmp_path, log)
    data = read(tmp_path, log, timestamp_unit="order")
    assert sorted(data.interactions["timestamp"]) == list(range(len(ROWS)))


def test_the_order_below_a_second_is_kept(tmp_path):
    log = timed(lambda t: f"2024-01-02T12:00:00.{t % 1_000:03d}Z")
    assert read(tmp_path, log).interactions["nanosecond"].max() < 1_000_000_000
    assert "nanosecond" not in read(tmp_path, CSV).interactions.columns


def test_day_and_month_are_told_apart_by_later_rows(tmp_path):
    log = timed(lambda t: pl.from_epoch(pl.Series([t])).dt.strftime("%d/%m/%Y").item())
    assert read(tmp_path, log).interactions["timestamp"].min() == 1_500_000_000 // 86_400 * 86_400
    doubtful = read(
        tmp_path, delimited(table=[(u, i, r, f"0{n % 9 + 1}/02/2017") for n, (u, i, r, _) in enumerate(ROWS)])
    )
    assert any("data.timestamp_format" in doubt for doubt in doubtful.report["doubts"])


def rated(form) -> str:
    return delimited(table=[(u, i, form(r), t) for u, i, r, t in ROWS])


@pytest.mark.parametrize(
    ("form", "likes"),
    [
        (lambda r: f'"{r - 1},5"', 3),
        (lambda r: f"{r}.0", 4),
        (lambda r: str(r > 3), 1),
        (lambda r: "yes" if r > 3 else "no", 1),
        (lambda r: "like" if r > 3 else "dislike", 1),
    ],
)
def test_ratings_in_other_words(tmp_path, form, likes):
    liked = sum(r >= 4 for *_, r, _ in ROWS)
    assert read(tmp_path, rated(form), min_rating=likes).report["rows_out"] == liked


def test_thousands_are_not_taken_for_fractions(tmp_path):
    log = rated(lambda r: f'"{r},234"')
    with pytest.raises(UserError, match="not_a_number"):
        read(tmp_path, log)
    assert read(tmp_path, log, interaction_format={"decimal_comma": False}).interactions["rating"].min() == 1234
    assert read(tmp_path, log, interaction_format={"decimal_comma": True}).interactions["rating"].max() < 6


@pytest.mark.parametrize(
    ("form", "suggestion"),
    [(lambda r: 2 * r, "8"), (lambda r: 20 * r, "80"), (lambda r: 1 if r > 3 else 0, "1"), (lambda r: 97 * r, "null")],
)
def test_the_default_threshold_is_for_stars_only(tmp_path, form, suggestion):
    with pytest.raises(UserError, match=f"default threshold of 4 is for ratings from 1 to 5.*such as {suggestion}"):
        read(tmp_path, rated(form), min_rating=...)
    assert read(tmp_path, rated(form), min_rating=4.0 if suggestion != "1" else 1.0).report["rows_out"] > 0


def test_a_rating_that_is_not_read_is_told_or_refused(tmp_path):
    columns = {"timestamp": "timestamp"}
    told = read(tmp_path, CSV, min_rating=..., interaction_columns=columns).report["doubts"]
    assert any("'rating' is not read" in doubt for doubt in told)
    assert not read(tmp_path, CSV, min_rating=..., interaction_columns=columns | {"rating": None}).report["doubts"]
    with pytest.raises(UserError, match="data.min_rating is 4, and no rating is read; the file has a column 'rating'"):
        read(tmp_path, CSV, min_rating=4.0, interaction_columns=columns)


# ---------------------------------------------------------------- events and dislikes

KINDS = ("view", "cart", "buy", "skip")
EVENTS = delimited(
    header=("user_id", "item_id", "event", "timestamp"),
    table=[("a", "x", "view", 1_500_000_000), ("a", "x", "buy", 1_500_086_400), ("a", "x", "view", 1_500_172_800),
           ("a", "y", "view", 1_500_000_000), ("a", "y", "skip", 1_500_086_400), ("b", "x", "skip", 1_500_000_000),
           ("b", "x", "view", 1_500_086_400), ("b", "y", "other", 1_500_086_400), ("b", "z", "view", 1_500_172_800)],
)  # fmt: skip
WITH_EVENTS = {"timestamp": "timestamp", "event": "event"}


def weights(data: CleanData) -> dict[tuple[str, str], float]:
    return {
        (user, item): weight for user, item, weight in data.interactions.select("user_id", "item_id", "weight").rows()
    }


def test_events_are_chosen_weighed_and_dislikes_kept_apart(tmp_path):
    options = {"interaction_columns": WITH_EVENTS, "events": {"view": 1, "buy": 5, "skip": -1}}
    data = read(tmp_path, EVENTS, **options)
    assert weights(data) == {("a", "x"): 5, ("b", "x"): 1, ("b", "z"): 1}
    assert data.dislikes is not None and data.dislikes.select("user_id", "item_id").rows() == [("a", "y")]
    assert data.report["left_out"]["other_event"] == 1 and data.report["left_out"]["disliked"] == 1
    assert weights(read(tmp_path, EVENTS, repeats="sum", **options))["a", "x"] == 7
    assert weights(read(tmp_path, EVENTS, interaction_columns=WITH_EVENTS, repeats="sum"))["a", "x"] == 3, (
        "repeats are counted"
    )
    half = weights(read(tmp_path, EVENTS, half_life_days=1, **options))
    assert half["b", "z"] == 1 and half["b", "x"] == 0.5 and half["a", "x"] == 2.5


def test_events_are_told_and_unknown_ones_refused(tmp_path):
    told = read(tmp_path, EVENTS, interaction_columns=WITH_EVENTS).report["notes"]
    assert any("view 5, skip 2, buy 1, other 1" in note or "view 5, skip 2" in note for note in told)
    with pytest.raises(UserError, match="no event 'click'; the events are 'view'"):
        read(tmp_path, EVENTS, interaction_columns=WITH_EVENTS, events={"click": 1})
    doubts = read(tmp_path, EVENTS, interaction_columns={"timestamp": "timestamp"}).report["doubts"]
    assert any("'event' is not read" in doubt for doubt in doubts)


def test_low_ratings_are_dislikes_if_the_recipe_says_so(tmp_path):
    data = read(tmp_path, CSV, min_rating=4.0, dislike_below=2.0)
    assert data.dislikes is not None and data.dislikes.height == sum(r < 2 for *_, r, _ in ROWS)
    assert data.report["left_out"]["below_min_rating"] == sum(2 <= r < 4 for *_, r, _ in ROWS)
    assert read(tmp_path, CSV).dislikes is None


# ---------------------------------------------------------------- texts


def described(folder: Path, header: str, row, **data) -> dict:
    items = header + "\n" + "".join(row(item, title) + "\n" for item, title in TITLES.items())
    found = read(folder, CSV, items, **data).items.row(0, named=True)
    return found | {"attributes": {pair["name"]: pair["value"] for pair in found["attributes"]}}


def test_columns_that_tell_an_llm_nothing_are_left_out(tmp_path):
    found = described(
        tmp_path, ",item_id,title,genres,url,meta,year,tags",
        lambda item, title: f'{number(item)},{item},{title},Comedy|Drama,https://x/{item},"{{""a"": 1}}",'
        + "nan,\"['a', 'b']\"",
    )  # fmt: skip
    assert found["attributes"] == {"genres": "Comedy, Drama", "tags": "a, b"}
    named = described(tmp_path, "item_id,title,url", lambda item, title: f"{item},{title},https://x/{item}",
                      item_columns={"attributes": ["url"]})  # fmt: skip
    assert named["attributes"] == {"url": "https://x/i1"}


def test_nested_columns_of_parquet_do_no_harm(tmp_path):
    table = pl.DataFrame({"item_id": list(TITLES), "title": list(TITLES.values())}).with_columns(
        nested=pl.lit([[["a"]]]),
        people=pl.struct(pl.lit(1).alias("n")),
        tags=pl.lit(["x", "y"]).cast(pl.List(pl.String)),
    )
    options = {"items": parquet(table), "item_format": {"format": "parquet"}}
    found = read(tmp_path, CSV, **options).items.row(0, named=True)
    assert [pair["name"] for pair in found["attributes"]] == ["tags"]
    named = read(tmp_path, CSV, item_columns={"attributes": ["nested", "people"]}, **options).items.row(0, named=True)
    assert [pair["name"] for pair in named["attributes"]] == ["nested", "people"]


def test_titles_lose_control_codes_entities_and_words_for_missing(tmp_path):
    title = "\x1b[31mTom &amp; &#039;Jerry&quot;\x1b[0m\x07\x1b]0;pwned\x07"
    assert described(tmp_path, "item_id,title", lambda item, _: f"{item},{title}")["title"] == "Tom & 'Jerry\""
    assert described(tmp_path, "item_id,title", lambda item, _: f"{item},NaN")["title"] == "i1"
    moved = described(tmp_path, "item_id,title", lambda item, _: f'{item},"Matrix, The (1999)"',
                      item_columns={"move_articles": True})  # fmt: skip
    assert moved["title"] == "The Matrix (1999)"


def test_utf_8_that_was_read_as_latin_1_is_refused_or_told(tmp_path):
    items = CATALOGUE.replace("The Title", "Amélie’s Café")
    with pytest.raises(UserError, match="should be 'Amélie’s Café of 1'.*set encoding: utf-8 for this file"):
        read(tmp_path, CSV, items, encoding="latin-1")
    assert read(tmp_path, CSV, items, encoding="latin-1", item_format={"encoding": "utf-8"}).report["doubts"] == []
    twice = items.encode().decode("cp1252")
    assert any("UTF-8 text was read" in doubt for doubt in read(tmp_path, CSV, twice).report["doubts"])


def test_stray_quotes_swallow_no_rows(tmp_path):
    items = "item_id\ttitle\n" + "".join(
        f'{item}\t"{title}\n' if item in ("i2", "i5") else f'{item}\tThe "{title}"\n' for item, title in TITLES.items()
    )
    data = read(tmp_path, CSV, items, item_format={"format": "tsv"})
    assert data.items.height == ITEMS and data.items.row(1, named=True)["title"] == '"The Title of 2'


# ---------------------------------------------------------------- files that must not be trusted


def test_pipes_and_devices_are_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (str(tmp_path / "pipe"), "/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match="is a (named pipe|device), not a file"):
            read(tmp_path, None, interactions=[place])


def test_what_is_unpacked_has_a_limit(tmp_path):
    with pytest.raises(UserError, match="unpacks to more than .*data.max_unpacked_gb"):
        read(tmp_path, gzip.compress(CSV.encode() * 50), max_unpacked_gb=1e-5)
    with pytest.raises(UserError, match="zero bytes"):
        read(tmp_path, gzip.compress(bytes(10**7)))


@pytest.mark.parametrize("kind", ["gzip", "bz2", "zstd", "lz4"])
def test_packed_whatever_the_name_and_cut_short(tmp_path, kind):
    import pyarrow

    stream = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(stream, kind) as out:
        out.write(CSV.encode())
    packed = stream.getvalue().to_pybytes()
    assert read(tmp_path, packed).report["rows_out"] == len(ROWS)
    with pytest.raises(UserError, match="cut short or damaged"):
        read(tmp_path, packed[: len(packed) // 2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (parquet(FRAME), "a Parquet file.*data.source: parquet"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "an Excel workbook.*CSV"),
        (b"SQLite format 3\0" + bytes(100), "an SQLite database"),
        (bytes(range(256)) * 10, "not a text file"),
        (delimited(";"), r"fields separated by ';'.*interaction_format: \{ separator: \";\" \}"),
        (delimited("::", None), r"separated by '::' without a header.*header: false.*by number, such as user: 1"),
        (delimited(header=None), r"without a header.*header: false"),
        ("".join(str(row).replace("'", '"') + "\n" for row in FRAME.to_dicts()), "looks like JSON.*format: \"json\""),
        ("1 5 6 7\n2 8\n3 5 9\n4 1 2 3 5\n5 8 9\n", 'a user and its items.*format: "lightgcn"'),
    ],
)  # fmt: skip
def test_a_wrong_guess_is_answered_with_the_setting_that_reads_it(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, content)


def test_advice_for_a_file_without_a_header_is_not_followed_blindly(tmp_path):
    first = ROWS[0]
    columns = {"user": first[0], "item": first[1], "rating": str(first[2]), "timestamp": str(first[3])}
    with pytest.raises(UserError, match="without a header"):
        read(tmp_path, delimited(header=None), interaction_columns=columns)
