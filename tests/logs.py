"""One small log, written in every layout that people have: what each must give is known."""

import calendar
import gzip
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

USERS, ITEMS = 12, 9
Row = tuple[str, str, int, int]


def rows() -> list[Row]:
    """(user, item, rating 1 to 5, seconds): every user rates six or seven of nine items, one a day."""
    found = []
    for user in range(USERS):
        liked = [item for item in range(ITEMS) if (user * 7 + item * 5) % 9 > 1]
        for day, item in enumerate(sorted(liked, key=lambda item, user=user: (item * 7 + user * 3) % 11)):
            rating = 1 + (user * item + day) % 5
            found.append((f"u{user + 1}", f"i{item + 1}", rating, 1_500_000_000 + user * 3_600 + day * 86_400))
    return found


ROWS = rows()
TITLES = {f"i{item + 1}": f"The Title of {item + 1}" for item in range(ITEMS)}
HEADER = ("user_id", "item_id", "rating", "timestamp")
COLUMNS = {"rating": "rating", "timestamp": "timestamp"}
NUMBERS = {"user": 1, "item": 2, "rating": 3, "timestamp": 4}


@dataclass
class Layout:
    """Files, and the section `data` that reads them; paths in it are relative to the files' folder."""

    name: str
    files: dict[str, bytes | str]
    data: dict[str, Any] = field(default_factory=dict)
    places: Sequence[str] = ()
    """What `darec data inspect` is given, if not all files."""
    times: Callable[[int], int] = lambda seconds: seconds
    """What is left of a timestamp in the file's resolution."""
    ids: Callable[[str], str] = lambda id: id
    """What the file has of an id."""
    is_inspected: bool = True
    """Whether the description can be found without being told."""

    def write(self, folder: Path) -> None:
        """Writes the files."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def delimited(
    separator: str = ",",
    header: Sequence[str] | None = HEADER,
    table: Iterable[Sequence[object]] = ROWS,
    end: str = "\n",
) -> str:
    """A text of fields."""
    lines = [separator.join(map(str, row)) for row in ([header] if header else []) + list(table)]
    return end.join(lines) + end


def timed(form: Callable[[int], object]) -> str:
    """The log with other timestamps."""
    return delimited(table=[(user, item, rating, form(time)) for user, item, rating, time in ROWS])


def dated(form: str) -> Callable[[int], str]:
    """A formatter of timestamps."""
    return lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime(form)


def parquet(table: pl.DataFrame) -> bytes:
    """A Parquet file."""
    table.write_parquet(stream := io.BytesIO())
    return stream.getvalue()


def zipped(**members: str) -> bytes:
    """A ZIP archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)
    return stream.getvalue()


FRAME = pl.DataFrame(ROWS, schema=list(HEADER), orient="row")
DICTS = FRAME.to_dicts()
CSV = delimited()


def csv(name: str, text: bytes | str, file: str = "log.csv", **options: Any) -> Layout:
    """A log in one delimited file."""
    data = {"source": "csv", "interactions": file, "interaction_columns": COLUMNS} | options.pop("data", {})
    return Layout(name, {file: text}, data, **options)


def of_format(name: str, text: bytes | str, file: str = "log.csv", **settings: Any) -> Layout:
    """A log in one delimited file whose format needs settings."""
    return csv(name, text, file, data={"interaction_format": settings})


def other_names(name: str, **names: str) -> Layout:
    """A log whose columns have other names."""
    header = [names.get(column.removesuffix("_id"), column) for column in HEADER]
    return csv(name, delimited(header=header), data={"interaction_columns": COLUMNS | names})


HEADLESS = {"interaction_format": {"header": False}, "interaction_columns": NUMBERS}
DAYS = {"times": lambda seconds: seconds // 86_400 * 86_400}
MINUTES = {"times": lambda seconds: seconds // 60 * 60}
PARTS = [ROWS[:20], ROWS[20:50], ROWS[50:]]

DELIMITED = [
    csv("csv", CSV),
    csv("blank lines and CRLF", delimited(end="\r\n").replace("\r\nu3,", "\r\n\r\nu3,", 1)),
    csv("line ends of old Macs", delimited(end="\r")),
    csv("byte order mark", "\ufeff" + CSV),
    csv("quoted", delimited(table=[(f'"{u}"', f'"{i}"', r, t) for u, i, r, t in ROWS])),
    csv("trailing separator", CSV.replace("\n", ",\n").replace("timestamp,\n", "timestamp\n", 1)),
    csv("trailing separator, header too", CSV.replace("\n", ",\n")),
    csv("line sep=", "sep=,\n" + CSV),
    csv("line sep=;", "sep=;\n" + delimited(";")),
    of_format("semicolons", delimited(";"), separator=";"),
    of_format("bars", delimited("|"), separator="|"),
    of_format("blanks", delimited(" "), separator=" "),
    of_format("runs of blanks", delimited("   "), separator="whitespace"),
    of_format("tabs in .csv", delimited("\t"), separator="\t"),
    of_format("two colons", delimited("::"), separator="::", quote="none"),
    csv("blanks after commas", delimited(", ")),
    of_format("quotes after blanks", delimited(", ", [f'"{name}"' for name in HEADER],
              [[f'"{value}"' for value in row] for row in ROWS]), separator=", "),
    of_format("R's row names", delimited(table=[(f'"{n}"', *row) for n, row in enumerate(ROWS, 1)]), header=True,
              names=["row", *HEADER]),
    csv("KONECT: blanks and tabs", "% bip weighted\n" + delimited("\t", None, [(f"{u[1:]} {i[1:]}", r, t)
        for u, i, r, t in ROWS]), "out.log", data={"interaction_columns": NUMBERS, "interaction_format": {
        "separator": "whitespace", "header": False, "comment": "%"}}, ids=lambda id: id[1:]),
    csv("Chinese names", delimited(header=("用户ID", "商品ID", "评分", "时间")).encode("gb18030"), data={
        "encoding": "gb18030", "interaction_columns": {"user": "用户ID", "item": "商品ID", "rating": "评分",
        "timestamp": "时间"}}),
    of_format("Hive's separator", delimited("\x01"), separator="\x01"),
    csv("tsv", delimited("\t"), "log.tsv", data={"source": "tsv"}),
    csv("no header", delimited(header=None), data=HEADLESS),
    csv("no header, two colons", delimited("::", None), "ratings.dat",
        data=HEADLESS | {"interaction_format": {"header": False, "separator": "::", "quote": "none"}}),
    csv("no header, named", delimited(header=None), is_inspected=False,
        data={"interaction_format": {"names": ["user_id", "item_id", "rating", "timestamp"]}}),
    of_format("lines before the header", "exported by us\n\n" + CSV, skip_lines=2),
    of_format("comments", "# exported\n# by us\n" + CSV, comment="#"),
    other_names("other names", user="reviewerID", item="asin", rating="overall", timestamp="unixReviewTime"),
    other_names("upper case", user="USER_ID", item="ITEM_ID", rating="RATING", timestamp="TIMESTAMP"),
    other_names("visitors", user="visitorid", item="itemid"),
    csv("UTF-16 with a mark", CSV.encode("utf-16")),
    csv("UTF-16 without", CSV.encode("utf-16-le"), data={"encoding": "utf-16-le"}, is_inspected=False),
    csv("latin-1", CSV.replace("u1,", "é1,").encode("latin-1"), data={"encoding": "latin-1"}, is_inspected=False),
    csv("gzip", gzip.compress(CSV.encode()), "log.csv.gz"),
    csv("gzip named .csv", gzip.compress(CSV.encode())),
    csv("gzip of latin-1", gzip.compress(CSV.encode("latin-1")), "log.csv.gz", data={"encoding": "latin-1"}),
    csv("zip", zipped(log__csv=CSV), "log.zip"),
    csv("recbole", delimited("\t", ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]), "log.inter",
        data={"source": "recbole"}),
    csv("ids as floats", CSV.replace("u", "1").replace("1ser", "user").replace(",i", ",").replace(",tem", ",item")
        .replace("1serid", "user"), is_inspected=False, data={}),
][:-1]  # fmt: skip

OTHERS = [
    csv("json lines", "".join(json.dumps(row) + "\n" for row in DICTS), "log.jsonl", data={"source": "json"}),
    csv("json lines, packed", gzip.compress("".join(json.dumps(row) + "\n" for row in DICTS).encode()), "log.json.gz",
        data={"source": "json"}),
    csv("json array", json.dumps(DICTS), "log.json", data={"source": "json"}),
    csv("json array, indented", json.dumps(DICTS, indent=1), "log.json", data={"source": "json"}),
    csv("json in an object", json.dumps({"data": DICTS}), "log.json", data={"source": "json"}),
    csv("json with NaN", json.dumps([row | {"extra": float("nan")} for row in DICTS]), "log.json",
        data={"source": "json"}),
    csv("python dictionaries", "".join(f"{row}\n" for row in DICTS), "log.json", data={"source": "json"}),
    csv("parquet", parquet(FRAME), "log.parquet", data={"source": "parquet"}),
    csv("parquet, bytes as ids", parquet(FRAME.with_columns(pl.col("user_id").cast(pl.Binary))), "log.parquet",
        data={"source": "parquet"}),
    csv("parquet, categories and dates", parquet(FRAME.with_columns(pl.col("user_id").cast(pl.Categorical),
        pl.from_epoch("timestamp"))), "log.parquet", data={"source": "parquet"}),
]  # fmt: skip

SEVERAL = [
    Layout("a list of files", {f"{n}.csv": delimited(table=part) for n, part in enumerate(PARTS)},
           {"source": "csv", "interactions": ["0.csv", "1.csv", "2.csv"], "interaction_columns": COLUMNS}),
    Layout("columns in another order", {
        "0.csv": delimited(table=ROWS[:30]),
        "1.csv": delimited(header=HEADER[::-1], table=[row[::-1] for row in ROWS[30:]])},
           {"source": "csv", "interactions": ["0.csv", "1.csv"], "interaction_columns": COLUMNS}),
    Layout("a glob", {f"{n}.csv": delimited(table=part) for n, part in enumerate(PARTS)} | {"_x.csv": "no"},
           {"source": "csv", "interactions": "*.csv", "interaction_columns": COLUMNS}, ["*.csv"]),
    Layout("Spark's folder", {f"log.csv/part-{n}.csv": delimited(table=part) for n, part in enumerate(PARTS)}
           | {"log.csv/_SUCCESS": "", "log.csv/.part-0.csv.crc": b"\0\1"},
           {"source": "csv", "interactions": "log.csv", "interaction_columns": COLUMNS}, ["log.csv"]),
    Layout("hive partitions", {f"log/rating={n}/a.parquet": parquet(FRAME.filter(rating=n).drop("rating"))
                               for n in range(1, 6)},
           {"source": "parquet", "interactions": "log", "interaction_columns": COLUMNS}, ["log"]),
    Layout("hive partitions of CSV", {f"log/rating={n}/a.csv": FRAME.filter(rating=n).drop("rating").write_csv()
                                      for n in range(1, 6)},
           {"source": "csv", "interactions": "log", "interaction_columns": COLUMNS}, ["log"]),
]  # fmt: skip

TIMED = [
    csv("milliseconds", timed(lambda t: t * 1_000)),
    csv("microseconds", timed(lambda t: t * 10**6)),
    csv("nanoseconds", timed(lambda t: t * 10**9)),
    csv("seconds and milliseconds", timed(lambda t: t if t % 2 else t * 1_000)),
    csv("seconds as floats", timed(float)),
    csv("Java's doubles", timed(lambda t: f"{t / 1e9:.9f}E9")),
    csv("days as numbers", timed(dated("%Y%m%d")), **DAYS),
    csv("seconds as digits", timed(dated("%Y%m%d%H%M%S"))),
    csv("ISO with T and Z", timed(dated("%Y-%m-%dT%H:%M:%SZ"))),
    csv("ISO with offsets", timed(lambda t: dated("%Y-%m-%d %H:%M:%S")(t + 7_200) + ("+02" if t % 2 else "+02:00"))),
    csv("ISO with a fraction", timed(dated("%Y-%m-%d %H:%M:%S.250"))),
    csv("fraction after a comma", timed(lambda t: f'"{dated("%Y-%m-%d %H:%M:%S,123")(t)}"')),
    csv("minutes", timed(dated("%Y-%m-%d %H:%M")), **MINUTES),
    csv("slashes", timed(dated("%Y/%m/%d %H:%M:%S"))),
    csv("am and pm", timed(dated("%m/%d/%Y %I:%M:%S %p"))),
    csv("day first", timed(dated("%d/%m/%Y %H:%M:%S"))),
    csv("dots", timed(dated("%d.%m.%Y %H:%M")), **MINUTES),
    csv("dates", timed(dated("%Y-%m-%d")), **DAYS),
    csv("RFC 2822", timed(lambda t: f'"{dated("%a, %d %b %Y %H:%M:%S GMT")(t)}"')),
    csv("ctime", timed(dated("%a %b %d %H:%M:%S +0000 %Y"))),
    csv("with the zone's name", timed(dated("%Y-%m-%d %H:%M:%S UTC"))),
    csv("two forms", timed(lambda t: dated("%Y-%m-%d %H:%M:%S" if t % 7 else "%Y/%m/%d %H:%M")(t)),
        times=lambda t: t if t % 7 else t // 60 * 60),
    csv("a form that is set", timed(dated("%Hh%M %d~%m~%Y")), data={"timestamp_format": "%Hh%M %d~%m~%Y"},
        is_inspected=False, **MINUTES),
    csv("days since 1970", timed(lambda t: t / 86_400), data={"timestamp_unit": "days"}),
    csv("days of a spreadsheet", timed(lambda t: t // 86_400 + 25_569), data={"timestamp_unit": "excel"}, **DAYS),
    csv("an order", timed(lambda t: t - 1_400_000_000), data={"timestamp_unit": "order"},
        times=lambda t: t - 1_400_000_000),
    csv("ticks of .NET", timed(lambda t: 621_355_968_000_000_000 + t * 10**7)),
    csv("minutes as digits", timed(dated("%Y%m%d%H%M")), **MINUTES),
    csv("months as digits", timed(dated("%Y%m")), times=lambda t: calendar.timegm((*time.gmtime(t)[:2], 1, 0, 0, 0))),
    csv("in words", timed(lambda t: f'"{dated("%B %d, %Y at %I:%M %p")(t)}"'), **MINUTES),
    csv("in brackets", timed(dated("[%d/%b/%Y:%H:%M:%S +0000]"))),
]  # fmt: skip

BY_USER = {user: [row for row in ROWS if row[0] == user] for user, *_ in ROWS}
BY_ITEM = {item: [row for row in ROWS if row[1] == item] for _, item, *_ in ROWS}
DAY, SECOND = dated("%Y-%m-%d"), dated("%Y-%m-%d %H:%M:%S")


def named(name: str, header: str, form: Callable[[str, str, int, int], Sequence[object]], **columns: Any) -> Layout:
    """A log whose header is that of a public data set."""
    names = header.split(",")
    return csv(name, delimited(header=names, table=[form(*row) for row in ROWS]), data={"interaction_columns": columns})


def unnamed(name: str, form: Callable[[str, str, int, int], Sequence[object]], separator: str = ",", **columns: int):
    """A log without a header, as in a public data set."""
    section = {"interaction_format": {"header": False, "separator": separator}, "interaction_columns": columns}
    return csv(name, delimited(separator, None, [form(*row) for row in ROWS]), "log.txt", data=section)


def objects(name: str, rows: Iterable[object], file: str = "log.json", **section: Any) -> Layout:
    """A log of JSON lines, or of lines of Python."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return csv(name, text, file, data={"source": "json"} | section)


PUBLIC = [  # of data sets that people use; what they hold is made up
    unnamed("Gowalla: coordinates before the place", separator="\t", user=1, item=5, rating=6, timestamp=2,
            form=lambda u, i, r, t: (u, dated("%Y-%m-%dT%H:%M:%SZ")(t), f"30.{r}123", "-97.7951", i, r)),
    unnamed("Twitch: every stream has another number", user=1, item=3, rating=4, timestamp=5,
            form=lambda u, i, r, t: (u, 34_347_669_376 + t % 86_400 + r * 10**6 + t, i, r, t)),
    unnamed("time first", timestamp=1, user=2, item=3, rating=4, form=lambda u, i, r, t: (SECOND(t), u, i, r)),
    named("Globo: first words", "user_id,session_start,session_size,click_article_id,click_rating,click_timestamp",
          lambda u, i, r, t: (u, t - 60, 2, i, r, t), item="click_article_id", rating="click_rating",
          timestamp="click_timestamp"),
    named("BeerAdvocate: first words", "brewery_id,review_time,review_overall,review_profilename,beer_beerid",
          lambda u, i, r, t: (7, t, r, u, i), user="review_profilename", item="beer_beerid", rating="review_overall",
          timestamp="review_time"),
    named("trivago: references", "user_id,step,reference,rating,timestamp", lambda u, i, r, t: (u, r, i, r, t),
          item="reference", rating="rating", timestamp="timestamp"),
    named("KuaiRand: days, and milliseconds", "user_id,video_id,date,hourmin,time_ms,rating",
          lambda u, i, r, t: (u, i, dated("%Y%m%d")(t), dated("%H")(t) + "00", t * 1000, r), item="video_id",
          rating="rating", timestamp="time_ms"),
    named("Coveo: hashes", "session_id_hash,score,product_sku_hash,server_timestamp_epoch_ms",
          lambda u, i, r, t: (u, r, i, t * 1000), user="session_id_hash", item="product_sku_hash", rating="score",
          timestamp="server_timestamp_epoch_ms"),
    named("a date of another name", "user_id,item_id,rating,bestellt", lambda u, i, r, t: (u, i, r, SECOND(t)),
          rating="rating", timestamp="bestellt"),
    objects("Goodreads: a time in the middle", ({"user_id": u, "book_id": i, "rating": r, "read_at": "", "date_added":
            dated("%a %b %d %H:%M:%S -0800 %Y")(t - 28_800)} for u, i, r, t in ROWS),
            interaction_columns={"item": "book_id", "rating": "rating", "timestamp": "date_added"}),
    objects("Adressa: an id that occurs again", ({"profile": [{"item": "0"}], "eventId": t * 10 + r, "userId": u,
            "id": i, "rating": r, "time": t} for u, i, r, t in ROWS),
            interaction_columns={"user": "userId", "item": "id", "rating": "rating", "timestamp": "time"}),
    objects("LibraryThing: lines of Python", (f"reviews[({i!r}, {u!r})] = " + repr({"unixtime": t, "work": i, "user": u,
            "stars": float(r), "flags": []}) for u, i, r, t in ROWS), "reviews.txt",
            interaction_columns={"user": "user", "item": "work", "rating": "stars", "timestamp": "unixtime"}),
    objects("nested objects", ({"user": {"id": u, "name": "x"}, "item": {"id": i}, "stars": r, "ts": t}
            for u, i, r, t in ROWS), interaction_format={"flatten": True}, interaction_columns={"user": "user.id",
            "item": "item.id", "rating": "stars", "timestamp": "ts"}),
    objects("MongoDB's types", ({"_id": {"$oid": f"{n:024x}"}, "user_id": {"$oid": u}, "item_id": i,
            "rating": {"$numberInt": str(r)}, "ts": {"$date": {"$numberLong": str(t * 1000)}}}
            for n, (u, i, r, t) in enumerate(ROWS)), interaction_format={"flatten": True}, interaction_columns={
            "user": "user_id.$oid", "rating": "rating.$numberInt", "timestamp": "ts.$date.$numberLong"}),
    objects("Elasticsearch's hits", ({"_index": "log", "_id": f"x{n}", "_score": 1.0, "_source": {"user_id": u,
            "item_id": i, "rating": r, "@timestamp": dated("%Y-%m-%dT%H:%M:%S.000Z")(t)}}
            for n, (u, i, r, t) in enumerate(ROWS)), interaction_format={"flatten": True}, interaction_columns={
            "user": "_source.user_id", "item": "_source.item_id", "rating": "_source.rating",
            "timestamp": "_source.@timestamp"}),
    objects("OTTO: a list of events in each line", ({"session": u, "events": [{"aid": i, "ts": t, "rating": r}
            for _, i, r, t in rows]} for u, rows in BY_USER.items()), interaction_format={"records": "events"},
            interaction_columns={"user": "session", "item": "events.aid", "rating": "events.rating",
            "timestamp": "events.ts"}),
    csv("blocks of lines", "".join(f"product/productId: {i}\nreview/userId: {u}\nreview/score: {r}.0\n"
        f"review/time: {t}\nreview/text: yes: good\n\n" for u, i, r, t in ROWS), "finefoods.txt",
        data={"source": "blocks", "interaction_columns": {"user": "review/userId", "item": "product/productId",
        "rating": "review/score", "timestamp": "review/time"}}),
    csv("Netflix: items above their rows", "".join(f"{i}:\n" + "".join(f"{u},{r},{DAY(t)}\n" for u, _, r, t in rows)
        for i, rows in BY_ITEM.items()), data={"source": "headings", "interaction_columns": NUMBERS}, **DAYS),
    csv("thousands in times", timed(lambda t: f'"{t:,}"')),
    of_format("single quotes", delimited(table=[(f"'{u}'", f"'{i}'", r, t) for u, i, r, t in ROWS]), quote="'"),
    csv("a ZIP archive with a readme", zipped(log__csv=CSV, README__txt="read me"), "log.zip"),
]  # fmt: skip

LAYOUTS = [*DELIMITED, *OTHERS, *SEVERAL, *TIMED, *PUBLIC]
