"""Recognises the meaning of columns from names and values, for `darec data inspect`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import polars as pl

from darec.dataset import times
from darec.dataset.look import Look, is_number
from schemas.data import NULL_WORDS, TimeUnit

Role = Literal["interactions", "items", "users"]

_WHOM = (
    "user|usr|use|reviewer|visitor|customer|cust|client|member|profile|account|person|listener|reader|viewer|player|"
    "buyer|subscriber|consumer|household|student|learner|candidate|applicant|steam|playlist|session|u"
)
_WHAT = (
    "item|itm|ite|movie|film|book|product|prod|business|venue|place|poi|location|artist|song|track|album|music|anime|"
    "manga|news|article|game|app|video|recipe|beer|wine|joke|course|content|doc|document|listing|offer|restaurant|"
    "hotel|show|series|podcast|merchant|page|post|work|gmap|stream|ad|bookmark|photo|image|pin|job|repo|exercise|"
    "question|problem|property|i"
)
_OTHER_DATES = ".*(birth|release|expir)"  # of people and items
_NUMBERED = "(id|key|no|num|number|index|idx|code|uuid|sk)"
_NAMES: dict[str, tuple[str, ...]] = {  # normalised column names (letters and digits), the most specific first
    "user": (
        f"(origin|orig|raw)?({_WHOM})(pseudo|anonymous)?{_NUMBERED}(hash)?",
        "uid|msno|steamid|pid|profilename",
        _WHOM,
        f"({_WHOM})(name|hash)|author|authorid|({_WHOM})?e?mail(address)?",
        "(order|basket|cart|invoice|receipt|ticket|visit|trip|transaction)(id|no|key|num|number)",  # without users
    ),
    "item": (
        "parentasin",
        f"(?!pincode)({_WHAT}){_NUMBERED}(hash)?|asin|(lineitem|product)?sku(hash)?|isbn|isbn13|stockcode|iid|aid",
        _WHAT,
        f"(spotify)?({_WHAT})(uri|url)|reference",
        f"({_WHAT})name",
    ),
    "rating": (
        "rating|ratings|rate|stars|star|overall|score|liked|thumbs|userrating|bookrating|ratingscore|myscore",
        "weight|plays|playcount|listencount|count|listens|votes?|feedback|preference|value|hours|playtime(forever)?|label|like",
    ),
    "timestamp": (
        "unixreviewtime|timestamp|ts|timestampms|unixtime|epoch",
        "time|date|datetime|when",
        ".*timestamp",
        ".*(time|date|at|day|dt|updated|created|edon)|(date|time).*|.*(epoch|time|ts)ms",
    ),
    "event": (
        "event|eventtype|eventname|action|actiontype|behavior|behaviortype|behaviour|actid|interaction",
        "interactiontype|activity|type|op",
    ),
    "split": ("split|part|fold|set|subset|partition|xlabel|phase",),
    "title": (f"title|(({_WHAT})(title|name))|name|headline|label", "originaltitle|fulltitle"),
    "description": ("description|overview|summary|abstract|plot|synopsis|desc|about",),
}
_SHORT_ITEMS, _SHORT_USERS = ("pid", "vid", "mid", "cid"), ("cid", "mid", "vid")
"""Names of ids of products, videos, movies, content; customers, members, visitors: the other column tells which."""
_LISTS = rf".*({_WHAT})(ids?|s|list|idlist|history)|.*(history|clicks|likes|purchases|sequence|basket|cart)"
_PARTS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}
_EVENT_WEIGHTS = {
    0.5: "impression",
    1: "view click pv pageview viewitem selectitem detail read play listen watch search",
    3: "cart addtocart basket fav favorite favourite like save share wishlist bookmark follow comment",
    5: "buy purchase order transaction checkout conversion",
    -1: "skip remove removefromcart unlike",
    -3: "dislike hide report return refund",
}
_WEIGHT_OF = {event: float(weight) for weight, events in _EVENT_WEIGHTS.items() for event in events.split()}
_YES_AND_NO = {"true", "false", "yes", "no", "0", "1", "like", "dislike", "t", "f", "y", "n"}


@dataclass
class Reading:
    """The recognised meanings of columns."""

    role: Role
    columns: dict[str, int]
    """Maps a meaning (user, item, rating, ...) to the number of the column, from 0."""
    doubts: list[str] = field(default_factory=list)
    item_separator: str | None = None
    item_rating_separator: str | None = None
    timestamp_unit: TimeUnit | None = None


def read_roles(look: Look) -> Reading:
    """The role of a file, and the meanings of its columns."""
    is_named = not all(re.fullmatch(r"column_\d+", name) for name in look.columns)
    found = _by_name(look) if is_named else {}
    if not is_named:
        return _by_position(look)
    if "user" in found and re.search(r"authors?[/.]", look.columns[found["user"]]) and "title" in found:
        del found["user"]  # one of the authors of a title
    if "user" in found and not {"item", "title"} & found.keys() and (reading := _item_lists(look, found)):
        return reading
    if reading := _by_short_names(look, found):
        return reading
    if "user" in found and "item" in found and not _is_catalogue(look, found):
        return _interactions(look, found)
    if "user" in found and "title" in found:  # the author of a title
        del found["user"]
    if "user" not in found and "item" not in found and "title" not in found:
        reading = _by_position(look)
        names = ", ".join(f"{meaning} {look.columns[number]!r}" for meaning, number in reading.columns.items())
        reading.doubts.append(f"columns are recognised by values and positions, not by names: {names}")
        return reading
    return _entities(look, found)


def _by_short_names(look: Look, found: dict[str, int]) -> Reading | None:
    """The reading of a log in which only the users, or only the items, have a name that is clear by itself."""
    names = {_bare(name): number for number, name in enumerate(look.columns)}
    user, item = found.get("user"), found.get("item")
    others = [number for name, number in names.items() if re.fullmatch(f"cid|{_WHOM}", name) and number != user]
    if user is not None and item is None and user == names.get("pid") and others:
        user, item = others[0], user  # `pid` is a person only if nothing else is
    elif user is not None and item is None:
        item = next((names[name] for name in _SHORT_ITEMS if name in names and names[name] != user), None)
    elif user is None and item is not None and {"rating", "timestamp", "event"} & found.keys():
        user = next((names[name] for name in _SHORT_USERS if name in names and names[name] != item), None)
    else:
        return None

    if user is None or item is None or "title" in found:
        return None
    if _is_unique(look.column(user)) or (_is_unique(look.column(item)) and len(look.rows) > 50):
        return None  # a description of users, or numbers of rows
    reading = _interactions(look, found | {"user": user, "item": item})
    columns = f"{look.columns[user]!r} is read as the user and {look.columns[item]!r} as the item"
    reading.doubts.append(f"{columns}: such short names are not always clear")
    return reading


def _is_catalogue(look: Look, found: dict[str, int]) -> bool:
    """Whether rows describe items: each item once, with a title, without a rating, time or event."""
    items = look.column(found["item"])
    return (
        "title" in found
        and not {"rating", "timestamp", "event"} & found.keys()
        and len(items) > 3
        and _is_unique(items)
    )


def event_weights(events: Sequence[str]) -> dict[str, float] | None:
    """Weights for event types with known names, None if a name is unknown."""
    weights = {event: _WEIGHT_OF.get(_bare(event), _WEIGHT_OF.get(_bare(event).removesuffix("s"))) for event in events}
    known = {event: weight for event, weight in weights.items() if weight is not None}
    return known if len(known) == len(weights) else None


def part_of(name: str) -> Literal["train", "val", "test"] | None:
    """The part of a split in a file's name: `x.train.inter`, `test.txt`."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    if words & {"train", "training"}:
        return "train"
    if words & {"val", "valid", "validation", "dev"}:
        return "val"
    return "test" if words & {"test", "testing"} else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _by_name(look: Look) -> dict[str, int]:
    """For each meaning, the column with the best name whose values are plausible."""
    found: dict[str, int] = {}
    nested = any(re.search(r"\w[/.][\w$]", name) for name in look.columns)
    # Beside nested names, `_index` and `_score` are Elasticsearch's own.
    columns = ["" if nested and re.fullmatch(r"_\w+", name) else name for name in look.columns]
    whole = [_bare(name) for name in columns]
    last_words = [_bare(_last_words(name, nested)) for name in columns]

    def search(meaning: str, names: list[str], most: int) -> None:
        candidates = [
            (rank, number)
            for rank, pattern in enumerate(_NAMES[meaning][:most])
            for number, name in enumerate(names)
            if number not in found.values()
            and re.fullmatch(pattern, name)
            and not (meaning == "timestamp" and re.match(_OTHER_DATES, whole[number]))
            and _FITS.get(meaning, _anything)(look.column(number))
        ]
        if candidates and meaning not in found:
            found[meaning] = min(candidates)[1]

    # Ids by their whole names are best, then by their last words (`click_article_id`, `review/userId`, `item.id`), then
    # anything else by its whole name.
    most = {"user": 2, "item": 2, "rating": 2, "timestamp": 2}
    for meaning, count in most.items():
        search(meaning, whole, count)
    for meaning, count in most.items():
        search(meaning, last_words, len(_NAMES[meaning]) if nested else 1 if meaning == "rating" else count)
    if nested:
        search("event", last_words, len(_NAMES["event"]))
    for meaning, patterns in _NAMES.items():
        search(meaning, whole, len(patterns))
    if "item" in found:
        of_item = re.sub(_NUMBERED + "$", "", _bare(look.columns[found["item"]]))
        own = [number for number, name in enumerate(whole) if name in (f"{of_item}title", f"{of_item}name")]
        if own and "title" not in whole and own[0] not in found.values() and _is_text(look.column(own[0])):
            found["title"] = own[0]
    if "user" in found and "item" not in found and (number := _plain_id(look)) is not None:
        found["item"] = number
    return found


def _last_words(name: str, nested: bool) -> str:
    """A name without its first word; of nested names alone, if there are any, the last part.

    The types of MongoDB's exports, as in `user_id.$oid`, are no part of a name.
    """
    name = re.sub(r"(\.\$\w+)+$", "", name)
    if nested:
        *owner, last = re.split(r"[/.]", name)
        return f"{owner[-1]}_id" if owner and _bare(last) == "id" else last if owner else name
    return re.sub(r"^[^_\s-]+[_\s-]+", "", name)


def _plain_id(look: Look) -> int | None:
    """A column called `id` whose values occur again, as those of items do in a log."""
    names = [_bare(name) for name in look.columns]
    number = names.index("id") if "id" in names else None
    return None if number is None or _is_unique(look.column(number)) else number


def _interactions(look: Look, found: dict[str, int]) -> Reading:
    found = {meaning: number for meaning, number in found.items() if meaning not in ("title", "description")}
    reading = Reading("interactions", found)
    _read_times(look, reading)
    for meaning in ("rating", "timestamp"):
        named = [n for n, name in enumerate(look.columns) if re.fullmatch(_NAMES[meaning][0], _bare(name))]
        if named and meaning not in reading.columns:
            example = next(iter(_known(look.column(named[0]))), "")
            reading.doubts.append(f"{look.columns[named[0]]!r} is left out: {example[:40]!r} is not a {meaning}")
    reading.doubts += _uncounted(look, reading)
    return reading


def _item_lists(look: Look, found: dict[str, int]) -> Reading | None:
    """The reading of a file with a user and a list of items in each row; in Parquet perhaps with a list of times."""
    marks = {
        number: mark
        for number, name in enumerate(look.columns)
        if number != found["user"]
        and re.fullmatch(_LISTS, _bare(name))
        and (mark := _separator_of_ids(look.column(number)))
    }
    if not marks:
        return None
    item, mark = next(iter(marks.items()))
    what = f"{look.columns[item]!r} holds several items: each is a separate interaction"
    reading = Reading("interactions", {"user": found["user"], "item": item}, [what], item_separator=mark)
    if look.form.format == "parquet" and any(f"{mark} " in value for value in look.column(item)):
        reading.item_separator = None  # lists, as `as_text` shows them
        lengths = [value.count(mark) for value in look.column(item)]
        for number, name in enumerate(look.columns):
            values = look.column(number)
            is_named = any(re.fullmatch(form, _bare(name).removesuffix("s")) for form in _NAMES["timestamp"])
            is_parallel = is_named and lengths == [value.count(mark) for value in values]
            if is_parallel and _is_time([value.split(mark)[0] for value in values]):
                reading.columns["timestamp"] = number
    elif "timestamp" in found:
        reading.columns["timestamp"] = found["timestamp"]
    return reading


def _separator_of_ids(values: list[str]) -> str | None:
    """What separates the ids in lists of ids, in brackets or not; None if values are no lists."""
    known = [value.strip() for value in _known(values)]
    for mark in (",", "|", ";", " "):
        words = [word.strip(" '\"[]") for value in known for word in value.split(mark)]
        are_ids = all(re.fullmatch(r"[\w:-]*", word) for word in words) and any(map(str.isdigit, "".join(words)))
        if are_ids and sum(mark in value for value in known) > 0.5 * len(known) and len(set(words)) < 0.8 * len(words):
            return mark
    return None


def _uncounted(look: Look, reading: Reading) -> list[str]:
    """Doubts about columns that say that some rows are no likes: flags such as `is_click`, and pieces returned."""
    if {"rating", "event"} & reading.columns.keys():
        return []
    flags = [name for number, name in enumerate(look.columns) if _is_flag(_bare(name), look.column(number))]
    doubts = []
    if flags:
        what = f"{', '.join(flags[:8])}: rows with 0 count as interactions too"
        doubts.append(f"{what}, unless data.interaction_columns.rating names the column of likes (with min_rating: 1)")
    for number, name in enumerate(look.columns):
        if re.fullmatch(r"quantity|qty|units|pieces", _bare(name)) and any(
            value.strip().startswith("-") for value in look.column(number)
        ):
            doubts.append(f"{name!r} has negative values: rows of returned items count as interactions")
    return doubts


def _is_flag(name: str, values: list[str]) -> bool:
    named = re.fullmatch(r"is[a-z]+|clicks?|clicked|liked?|label|target|purchased|bought", name)
    return named is not None and {value.strip().lower() for value in _known(values)} in ({"0", "1"}, {"true", "false"})


def _read_times(look: Look, reading: Reading) -> None:
    """Adds a column of times that no name tells, or replaces one of days by one with hours and minutes."""
    taken = [number for meaning, number in reading.columns.items() if meaning != "timestamp"]
    others = [number for number in range(len(look.columns)) if number not in taken]
    if "timestamp" in reading.columns:
        coarse = _seconds(look.column(reading.columns["timestamp"]))
        named = [n for n in others if re.fullmatch("|".join(_NAMES["timestamp"]), _bare(look.columns[n]))]
        for number in named if _are_days(coarse) else []:
            finer = _seconds(look.column(number))
            are_same = len(finer) == len(coarse) and ((finer - coarse).abs() < 2 * 86_400).sum() > 0.9 * len(coarse)
            if are_same and not _are_days(finer):
                reading.columns["timestamp"] = number
        return

    own = [number for number in others if not re.match(_OTHER_DATES, _bare(look.columns[number]))]
    dated = next((number for number in own if _is_date(look.column(number))), None)
    if dated is not None:
        reading.doubts.append(f"{look.columns[dated]!r} is read as the time, because it has dates")
        reading.columns["timestamp"] = dated
        return
    for number in others:
        values, name = _known(look.column(number)), look.columns[number]
        rank = next((rank for rank in (0, 1) if re.fullmatch(_NAMES["timestamp"][rank], _bare(name))), None)
        if rank is None or not values or not all(map(is_number, values)):
            continue
        unit = times.unit_of(pl.Series(values).cast(pl.Float64, strict=False).drop_nulls())
        if unit is not None and (unit != "order" or rank == 0):
            what = {"days": "days since 1970", "excel": "days of a spreadsheet", "order": "an order, not times"}[unit]
            reading.doubts.append(f"{name!r} is read as {what}, because of numbers such as {values[0]}")
            reading.columns["timestamp"], reading.timestamp_unit = number, unit
            return


def _seconds(values: list[str]) -> pl.Series:
    """The seconds since 1970 of values that are times, null for others."""
    texts = pl.Series("time", values, dtype=pl.String)
    read = times.nanoseconds("time", pl.String(), times.recognise(texts, None, None))
    found = texts.to_frame().select(read).to_series()
    return found.set(found == times.IMPLAUSIBLE, None) // times.SECOND


def _are_days(seconds: pl.Series) -> bool:
    return bool((seconds.drop_nulls() % 86_400 == 0).all())


def _entities(look: Look, found: dict[str, int]) -> Reading:
    """The reading of a file with either items or users."""
    names = [_bare(name) for name in look.columns]
    ids = [number for number, name in enumerate(names) if re.fullmatch(r"id|key|index", name)]
    unique = ids or [
        number
        for number in range(len(names))
        if _is_unique(look.column(number)) and not _counts_up(look.column(number))
    ]
    role: Role = "users" if "user" in found and "title" not in found else "items"
    key = "user" if role == "users" else "item"
    if key not in found and unique:
        found[key] = unique[0]
    if key not in found:
        found[key] = next(number for number in range(len(names)) if number != found.get("title"))
    kept = (key,) if role == "users" else (key, "title", "description")
    return Reading(role, {meaning: found[meaning] for meaning in kept if meaning in found})


def _by_position(look: Look) -> Reading:
    """Recognises columns without names: a time, a rating, and the remaining columns as user and item, in this order."""
    numbers = [number for number in range(len(look.columns)) if any(value.strip() for value in look.column(number))]
    lists = {number: marks for number in numbers if (marks := _list_marks(look.column(number)))}
    time = next((number for number in numbers[1:] if _is_time(look.column(number))), None)
    if time is None and len(numbers) > 2 and _is_date(look.column(numbers[0])):
        time, numbers = numbers[0], numbers[1:]
    first = look.column(numbers[0])

    # Unique ids, no times, and texts: a description of items or users.
    if _is_unique(first) and len(first) > 3 and time is None and _has_words(look, numbers[1:]):
        return _description_by_position(look, numbers)

    # A first column that counts up is a row number.
    ids = [number for number in numbers if number != time and number not in lists]
    if lists and len(ids) > 1 and _counts_up(look.column(ids[0])):
        ids = ids[1:]

    item = _item_among(look, ids[1:]) if len(ids) > 1 else ids[0]
    scores = [number for number in reversed(ids) if number > max(ids[0], item) and _is_score(look, number)]
    rating = next((number for number in scores if len(set(look.column(number))) > 1), scores[0] if scores else None)
    columns = {"user": ids[0], "item": item}
    reading = Reading("interactions", columns, ["the first id column is read as the user, the second as the item"])
    if _are_amazon_items(first) and not _are_amazon_items(look.column(item)):
        columns |= {"user": item, "item": ids[0]}
        reading.doubts = ["the first column is read as the item, because its ids are those of Amazon's products"]
    if lists and len(ids) == 1:
        number = next((number for number, marks in lists.items() if marks[1]), next(iter(lists)))
        columns["item"] = number
        reading.item_separator, reading.item_rating_separator = lists[number][0], lists[number][1]
        reading.doubts = ["one field holds several items: each is a separate interaction"]

    if _are_labels(look.column(columns["user"])):
        values = ", ".join(sorted(set(look.column(columns["user"])))[:5])
        reading.doubts.append(
            f"the first id column has only the values {values}: if they are labels, no column has users"
        )
    found = {"rating": rating, "timestamp": time}
    columns |= {name: number for name, number in found.items() if number is not None}
    _read_events(look, numbers, reading)
    return reading


def _are_labels(values: list[str]) -> bool:
    """Whether there are few values that alternate; a log that is sorted by user has few users in long runs."""
    different = len(set(values))
    return len(values) >= 50 and different <= 10 and sum(a != b for a, b in pairwise(values)) > 3 * different


def _description_by_position(look: Look, numbers: list[int]) -> Reading:
    """The reading of a file with one row per item, with a title, or per user, with short codes only."""
    title = next(number for number in numbers[1:] if _is_text(look.column(number)))
    longest = max(len(value) for value in look.column(title))
    if longest > 3 and not _is_short(look.column(title)):
        return Reading("items", {"item": numbers[0], "title": title})
    return Reading("users", {"user": numbers[0]})


def _read_events(look: Look, numbers: list[int], reading: Reading) -> None:
    """Adds the column of event types, if their names are known; other columns of a few words are doubts."""
    for number in numbers:
        kinds = sorted(set(_known(look.column(number))))
        if number in reading.columns.values() or not 1 < len(kinds) <= 10 or any(map(is_number, kinds)):
            continue
        if event_weights(kinds) and "event" not in reading.columns:
            reading.columns["event"] = number
        else:
            what = f"column {look.columns[number]!r} is not read ({', '.join(kinds[:5])})"
            reading.doubts.append(f"{what}: if these are kinds of events, set data.interaction_columns.event")


def _item_among(look: Look, numbers: list[int]) -> int:
    """The first column that may hold the ids of items.

    Fractions are coordinates or amounts, values that never occur again number the rows, and ids are rarely missing.
    """
    usual = [number for number in numbers if not _are_fractions(look.column(number))] or numbers
    repeated = [number for number in usual if not (_is_unique(look.column(number)) and len(look.rows) > 50)] or usual
    complete = [number for number in repeated if len(_known(look.column(number))) > 0.98 * len(look.rows)] or repeated
    varied = [number for number in complete if len(set(look.column(number))) > 1] or complete
    return varied[0]


def _are_fractions(values: list[str]) -> bool:
    known = _known(values)
    return bool(known) and sum(
        bool(re.fullmatch(r"\s*[-+]?\d*\.\d*[1-9]\d*\s*", value)) for value in known
    ) > 0.5 * len(known)


def _is_score(look: Look, number: int) -> bool:
    """Whether a column without a name may hold ratings: no coordinates, with many places after the point, no ids
    of categories, which are large numbers of which few differ, and no offsets of time zones, which may all be
    negative."""
    values = _known(look.column(number))
    has_places = any(re.search(r"\.\d{4,}", value) for value in values)
    are_ids = len(set(values)) > 1 and all(re.fullmatch(r"\d{4,}", value) for value in values)
    are_negative = all(value.strip().startswith("-") for value in values)
    return _is_rating(values) and not (has_places or are_ids or are_negative)


def _are_amazon_items(values: list[str]) -> bool:
    """Whether these are Amazon's product ids: ten digits and capitals, a B or a digit first."""
    known = _known(values)
    return bool(known) and all(re.fullmatch(r"(B[0-9A-Z]{9}|\d{9}[0-9X])", value.strip()) for value in known)


def entities_of(look: Look, role: Role) -> Reading:
    """A file without names that is known to describe items, or users, by the ids in its first column."""
    if role == "users":
        return Reading("users", {"user": 0})
    texts = [number for number in range(1, len(look.columns)) if _is_plain_text(look.column(number))]
    if not texts:
        return Reading("items", {"item": 0})
    distinct = {number: len(set(look.column(number))) for number in texts}
    titles = [number for number in texts if distinct[number] > 0.8 * len(look.rows)]
    return Reading("items", {"item": 0, "title": titles[0] if titles else max(texts, key=lambda n: distinct[n])})


def _is_plain_text(values: list[str]) -> bool:
    """Whether these are texts, and no addresses or nested values."""
    return _is_text(values) and not any(value.startswith(("http", "{", "[")) for value in _known(values))


def _anything(values: list[str]) -> bool:
    return True


def _known(values: list[str]) -> list[str]:
    return [value for value in values if value.strip().lower() not in NULL_WORDS]


def _is_rating(values: list[str]) -> bool:
    """Whether values are ratings: few distinct numbers or words for yes and no, and not ids."""
    known = [value.strip() for value in _known(values)]
    words = {value.lower() for value in known} <= _YES_AND_NO
    return bool(known) and (words or (all(map(is_number, known)) and len(set(known)) <= max(25, 0.2 * len(known))))


def _is_amount(values: list[str]) -> bool:
    known = [value.strip() for value in _known(values)]
    return _is_rating(values) or (bool(known) and sum(map(is_number, known)) > 0.9 * len(known))


def _is_time(values: list[str]) -> bool:
    known = pl.Series("time", _known(values), dtype=pl.String)
    if known.is_empty():
        return False
    read = times.recognise(known, None, None)
    found = known.to_frame().select(times.nanoseconds("time", pl.String(), read)).to_series()
    return int((found != times.IMPLAUSIBLE).fill_null(False).sum()) > 0.8 * len(known)


def _is_date(values: list[str]) -> bool:
    """Whether these are times in text, and not numbers that could be."""
    return not any(map(is_number, _known(values))) and _is_time(values)


def _is_event(values: list[str]) -> bool:
    known = set(_known(values))
    return 0 < len(known) <= 20 and not any("." in value for value in known)


def _is_split(values: list[str]) -> bool:
    return {value.strip().lower() for value in _known(values)} <= _PARTS


def _is_text(values: list[str]) -> bool:
    known = _known(values)
    return bool(known) and sum(map(is_number, known)) < 0.5 * len(known)


def _is_short(values: list[str]) -> bool:
    """Whether values are codes such as M and F and not titles."""
    return len(set(values)) <= max(3, 0.1 * len(values))


def _has_words(look: Look, numbers: list[int]) -> bool:
    return any(_is_text(look.column(number)) for number in numbers)


def _is_unique(values: list[str]) -> bool:
    return len(set(values)) == len(values)


def _counts_up(values: list[str]) -> bool:
    numbers = [int(value) for value in values if value.strip().isdigit()]
    return len(numbers) == len(values) > 1 and all(b - a == 1 for a, b in pairwise(numbers))


def _list_marks(values: list[str]) -> tuple[str, str | None] | None:
    """The separator of lists of ids in one field, and the separator before a 0 or 1; None if these are not lists."""
    known = _known(values)
    if not known or sum(" " in value.strip() for value in known) < 0.5 * len(known):
        return None
    words = [word for value in known for word in value.split()]
    if sum(bool(re.fullmatch(r"\S+-[01]", word)) for word in words) > 0.9 * len(words):
        return " ", "-"
    has_digits = sum(bool(re.fullmatch(r"[A-Za-z]{0,3}\d+", word)) for word in words)
    return (" ", None) if has_digits > 0.9 * len(words) else None


_FITS: dict[str, Callable[[list[str]], bool]] = {
    "rating": _is_amount,
    "timestamp": _is_time,
    "event": _is_event,
    "split": _is_split,
    "title": _is_text,
    "description": _is_text,
}
