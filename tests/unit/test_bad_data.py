"""Bad input: one clear line that says what is wrong, where, and how to fix it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from darec.common.errors import UserError
from darec.common.recipes import load_recipe
from darec.dataset.clean import clean
from darec.dataset.files import check_file
from darec.dataset.readers import read_source
from darec.dataset.sources import source_files
from darec.dataset.split import Split, split_interactions
from schemas.data import DataConfig, InteractionColumns, ItemColumns, SplitConfig

HEAD = "user_id,item_id,rating,timestamp\n"
GOOD = HEAD + "".join(f"u{user},i{item},5,{1_500_000_000 + user + item}\n" for user in range(4) for item in range(4))
LABELS = "user_id,item_id,split\na,x,train\na,y,val\nb,x,train\nb,z,test\n"
ITEMS = "item_id,title\n" + "".join(f"i{item},Title {item}\n" for item in range(4))
COLUMNS = {"rating": "rating", "timestamp": "timestamp"}


@dataclass
class Case:
    """The files of a data set, how it is configured, and what the error must name."""

    name: str
    what: str
    where: str
    hint: str
    files: dict[str, str | bytes] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=lambda: dict(COLUMNS))
    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=lambda: {"k_core": 0})
    prepare: Callable[[Path], None] = lambda folder: None


def run(folder: Path, case: Case) -> Split:
    for name, content in ({"x.csv": GOOD} | case.files).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    case.prepare(folder)
    options = {"source": "csv", "interactions": "x.csv"} | case.data
    paths = {role: folder / options.pop(role) for role in ("interactions", "items", "users") if role in options}
    config = DataConfig(**paths, **options, interaction_columns=InteractionColumns(**case.columns))
    data = clean(read_source(config, folder / "unpacked"), config)
    return split_interactions(data.interactions, SplitConfig(**case.split))


def parquet(table: pl.DataFrame, cut: int | None = None) -> bytes:
    import io

    table.write_parquet(stream := io.BytesIO())
    return stream.getvalue()[:cut]


def with_items(text: str | bytes) -> dict[str, Any]:
    return {"files": {"i.csv": text}, "data": {"items": "i.csv"}}


def as_parquet(content: bytes, **columns: str) -> dict[str, Any]:
    return {
        "files": {"x.parquet": content},
        "data": {"source": "parquet", "interactions": "x.parquet"},
        "columns": columns,
    }


TABLE = pl.DataFrame({"user_id": ["a", "b"] * 50, "item_id": [str(number) for number in range(100)]})

CASES = [
    Case("missing file", "interactions file does not exist", "gone.csv", "data.interactions",
         data={"interactions": "gone.csv"}),
    Case("missing items file", "items file does not exist", "gone.csv", "data.items", data={"items": "gone.csv"}),
    Case("folder for a file", "a folder, not a file", "folder", "interactions file itself",
         data={"interactions": "folder"}, prepare=lambda folder: (folder / "folder").mkdir()),
    Case("empty file", "file is empty", "x.csv", "header line", files={"x.csv": ""}),
    Case("header only", "no rows", "x.csv", "with rows", files={"x.csv": HEAD}),
    Case("wrong column", "no column 'user'; did you mean 'user_id'?", "x.csv", "data.interaction_columns.user",
         columns={"user": "user"}),
    Case("wrong column, nothing near", "no column 'zzz'; the file has 'user_id', 'item_id'", "x.csv",
         "data.interaction_columns.rating", columns={"rating": "zzz"}),
    Case("wrong title column", "no column 'tittle'; did you mean 'title'?", "i.csv", "data.item_columns.title",
         files={"i.csv": ITEMS}, data={"items": "i.csv", "item_columns": ItemColumns(title="tittle")}),
    Case("wrong attribute column", "no column 'year'", "i.csv", "data.item_columns.attributes",
         files={"i.csv": ITEMS}, data={"items": "i.csv", "item_columns": ItemColumns(attributes=("year",))}),
    Case("text in rating", "16 of 16 rows would be lost (not_a_number 16), such as 'five'", "x.csv, column 'rating'",
         "data.interaction_columns.rating", files={"x.csv": GOOD.replace(",5,", ",five,")}),
    Case("NaN ratings", "(not_finite 16), such as 'NaN'", "x.csv, column 'rating'", "NaN and infinite",
         files={"x.csv": GOOD.replace(",5,", ",NaN,")}),
    Case("infinite ratings", "(not_finite 16), such as 'inf'", "x.csv, column 'rating'", "NaN and infinite",
         files={"x.csv": GOOD.replace(",5,", ",inf,")}),
    Case("negative timestamps", "(implausible_time 16), such as '-7'", "x.csv, column 'timestamp'", "1990 and tomorrow",
         files={"x.csv": HEAD + "u,i,5,-7\n" * 16}),
    Case("text in timestamp", "(not_a_time 1), such as 'noon'", "x.csv, column 'timestamp'", "ISO 8601",
         files={"x.csv": HEAD + "u,i,5,noon\n"}),
    Case("empty user ids", "(empty_user 2)", "x.csv, column 'user_id'", "data.interaction_columns.user",
         files={"x.csv": HEAD + ",i,5,1\n  ,j,5,1\n"}),
    Case("empty item ids", "(empty_item 1)", "x.csv, column 'item_id'", "data.interaction_columns.item",
         files={"x.csv": HEAD + "u,,5,1\n"}),
    Case("threshold removes everything", "no interaction is left after cleaning (below_min_rating 16)",
         "x.csv, column 'rating'", "data.min_rating", data={"min_rating": 6.0}),
    Case("no item is known", "16 of 16 rows would be lost (unknown_item 16), such as 'i0'", "x.csv, column 'item_id'",
         "data.items", **with_items("item_id,title\n7,Other\n")),
    Case("duplicate item ids", "1 ids have rows that contradict each other, such as 'i0'", "i.csv, column 'item_id'",
         "one row per id", **with_items(ITEMS + "i0,Another\n")),
    Case("items file without rows", "the file has no rows", "i.csv", "leave the file out",
         **with_items("item_id,title\n")),
    Case("ragged CSV", "1 of 2 rows would be lost (more_fields 1), such as 'oops'", "x.csv", "quote fields",
         files={"x.csv": HEAD + "u,i,5,1500000000\nu,j,5,1500000000,oops\n"}),
    Case("ragged items", "line 3 has more fields than the header", "i.csv", "quote fields",
         **with_items("item_id,title\ni0,A\ni1,A title, not quoted\n")),
    Case("bad encoding", "line 2 is not in the expected encoding", "i.csv", "data.encoding",
         **with_items("item_id,title\ni0,Café\n".encode("latin-1"))),
    Case("UTF-16 without a byte order mark", "this text is UTF-16", "x.csv", "set encoding: utf-16-le",
         files={"x.csv": GOOD.encode("utf-16-le")}),
    Case("truncated Parquet", "not a Parquet file, or it is truncated", "x.parquet", "write the file again",
         **as_parquet(parquet(TABLE, -30))),
    Case("not a Parquet file", "not a Parquet file", "x.parquet", "data.source", **as_parquet(GOOD.encode())),
    Case("ids of a wrong type", "ids are Float64, not text or whole numbers", "x.parquet, column 'user_id'", "as text",
         **as_parquet(parquet(pl.DataFrame({"user_id": [1.0, 2.5], "item_id": [1, 2]})))),
    Case("ratings of a wrong type", "ratings are Date, not numbers", "x.parquet, column 'rating'", "as numbers",
         **as_parquet(parquet(TABLE.with_columns(rating=pl.date(2024, 1, 1))), rating="rating")),
    Case("timestamps of a wrong type", "timestamps are Boolean", "x.parquet, column 'when'", "seconds since 1970",
         **as_parquet(parquet(TABLE.with_columns(when=pl.lit(True))), timestamp="when")),
    Case("unknown split label", "(unknown_split 1), such as 'holdout'", "x.csv, column 'split'", "train, val and test",
         files={"x.csv": LABELS + "c,x,holdout\n"}, columns={"split": "split"}, split={"strategy": "column"}),
    Case("no label val", "no interaction is labelled val", "split.strategy", "label some interactions val",
         files={"x.csv": LABELS.replace("val", "test")}, columns={"split": "split"}, split={"strategy": "column"}),
    Case("split column not given", "no split labels", "split.strategy", "data.interaction_columns.split",
         split={"strategy": "column"}),
    Case("temporal without timestamps", "needs timestamps", "split.strategy", "data.interaction_columns.timestamp",
         columns={"rating": "rating"}),
    Case("one user", "1 users and 3 items are left; at least two", "interactions", "more data",
         files={"x.csv": HEAD + "u,a,5,1500000001\nu,b,5,1500000002\nu,c,5,1500000003\n"}),
    Case("one item", "3 users and 1 items are left; at least two", "interactions", "more data",
         files={"x.csv": HEAD + "a,i,5,1500000001\nb,i,5,1500000002\nc,i,5,1500000003\n"}),
    Case("only users with one interaction", "no interaction is left for val", "split.ratios", "three interactions",
         files={"x.csv": HEAD + "a,i,5,1500000001\nb,j,5,1500000002\nc,i,5,1500000003\n"}),
    Case("k-core removes everything", "0 users and 0 items are left with at least 9 interactions each", "split.k_core",
         "lower split.k_core", split={"k_core": 9}),
    Case("MovieLens is not there", "u.data, u.item, u.user or ml-100k.inter", "nowhere", "darec data fetch ml-100k",
         data={"source": "movielens-100k", "folder": Path("nowhere")}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_data_gets_one_clear_line(tmp_path, case):
    with pytest.raises(UserError) as caught:
        run(tmp_path, case)
    error = caught.value
    assert case.what in error.what
    assert case.where in error.where
    assert case.hint in error.hint
    assert "\n" not in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize("role", ["interactions", "items", "users"])
def test_a_file_of_several_whose_ids_are_named_differently_is_named(tmp_path, role):
    key, column = ("item_id", "item_no") if role == "items" else ("user_id", "uid")
    for name in ("interactions", role):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "day1.csv").write_text("user_id,item_id,title\n" + "u1,i1,A\n" * 99)
    (tmp_path / role / "day2.csv").write_text("user_id,item_id,title\nu2,i2,B\n".replace(key, column))
    config = DataConfig(source="csv", **{name: tmp_path / name for name in {"interactions", role}})
    with pytest.raises(UserError, match=f"no column '{key}', which other files.*'{column}'.*day2.csv"):
        read_source(config, tmp_path / "unpacked")


TIME = datetime(2024, 1, 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", ["a"]), (["a"], "a"), (1, ["a"]), (True, TIME), (TIME, TIME.replace(tzinfo=UTC))],
)
def test_a_part_whose_types_cannot_be_mixed_with_those_of_others_is_named(tmp_path, first, second):
    for number, value in enumerate((None, first, second)):
        rows = pl.DataFrame({"user_id": "u", "item_id": f"i{number}", "at": [value]})
        rows.write_parquet(tmp_path / f"part-{number}.parquet")
    config = DataConfig(source="parquet", interactions=str(tmp_path))
    with pytest.raises(UserError, match=r"column 'at' is .* in this file, and .* in the files before it .*part-2"):
        read_source(config, tmp_path / "unpacked")


@pytest.mark.parametrize(
    "files",
    [
        ["user_id,item_id\nu1,i1\nu2,i1\n", "item_id,user_id\n", "x\n", "user_id,item_id,t\nu1,i2,1\n"],
        ['{"user_id": "1", "item_id": "1"}\n{"user_id": "2", "item_id": "1"}', "", '{"user_id": "1", "item_id": "2"}'],
    ],
)
def test_files_without_rows_and_other_columns_may_differ(tmp_path, files):
    for number, text in enumerate(files):
        (tmp_path / f"{number}.log").write_text(text)
    config = DataConfig(source="csv" if "," in files[1] else "json", interactions=f"{tmp_path}/*.log")
    assert clean(read_source(config, tmp_path / "unpacked"), config).report["rows_out"] == 3


def test_a_file_without_permission(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(GOOD)

    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot be opened \(Permission denied\).*x.csv.*make it readable"):
        source_files(DataConfig(source="csv", interactions=tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("split.ratios=[0.7, 0.2, 0.2]", "must be shares that sum to 1"),
        ("split.ratios=[0, 0.5, 0.5]", "none of them 0"),
        ("split.strategy=chronological", "split.strategy"),
        ("split.k_core=-1", "split.k_core"),
        ("data.source=csv", "needs `interactions`"),
        ("data.source=jsn", "data.source.*known sources: csv, tsv, json"),
        ("data.encoding=latin-x", "unknown encoding 'latin-x'"),
        ("data.interaction_format={separater: ;}", "did you mean 'separator'"),
        ("data.minrating=3", "did you mean 'min_rating'"),
        ("data.min_rating=.nan", "data.min_rating"),
        ("graph.weighting=symetric", "graph.weighting"),
    ],
)
def test_bad_configuration_is_refused_before_any_file_is_read(override, named):
    with pytest.raises(UserError, match=named):
        load_recipe(None, [override])


GOOD_CASES = {
    "UTF-16 with a byte order mark": {"files": {"x.csv": GOOD.encode("utf-16")}},
    "a BOM": {"files": {"x.csv": "\ufeff" + GOOD}},
    "CRLF line ends": {"files": {"x.csv": GOOD.replace("\n", "\r\n")}},
    "duplicates": {"files": {"x.csv": GOOD + GOOD.removeprefix(HEAD)}},
    "a 100 kB title": with_items(ITEMS.replace("Title 1", "x" * 100_000)),
    "unicode titles": with_items(ITEMS.replace("Title 1", "Á köldum 映画 🎬 \u202eabc")),
    "latin-1": {"files": {"i.csv": ITEMS.replace("Title", "Café").encode("latin-1")},
                "data": {"items": "i.csv", "encoding": "latin-1"}},
    "cp1252": {"files": {"i.csv": ITEMS.replace("Title", "€").encode("cp1252")},
               "data": {"items": "i.csv", "encoding": "cp1252"}},
    "ids with spaces around": {"files": {"x.csv": GOOD.replace("u0,", " u0 ,")}},
    "quoted commas and newlines": with_items(ITEMS.replace("Title 1", '"One, two,\nthree"')),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_CASES)
def test_odd_but_good_data_passes(tmp_path, name):
    split = run(tmp_path, Case(name, "", "", "", **GOOD_CASES[name]))
    assert (len(split.users), len(split.items)) == (4, 4)
    assert split.report["rows_out"] == 16


def test_a_relative_path_says_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data\.items, or run in another folder: a path is relative to where"):
        check_file(Path("raw/items.csv"), "items")
