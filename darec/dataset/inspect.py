"""`darec data inspect`: examines files and prints the recipe sections that read them."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from darec.common.errors import UserError
from darec.common.recipes import explain
from darec.common.strict_yaml import dump
from darec.dataset.addresses import place_of
from darec.dataset.clean import clean
from darec.dataset.errors import AnswerableError
from darec.dataset.files import SourceFile, expand, is_hidden
from darec.dataset.look import Look, is_number, look_at, nested_looks
from darec.dataset.ratings import parsed, scale_of
from darec.dataset.readers import RawData, read_source
from darec.dataset.remote import fetch, local
from darec.dataset.roles import Reading, Role, entities_of, event_weights, part_of, read_roles
from darec.dataset.sources import resolve, source_files
from darec.dataset.split import split_interactions
from darec.dataset.unpack import ABOUT
from schemas.data import DataConfig, SplitConfig
from schemas.reports import IngestReport
from schemas.source_names import SOURCES

_KEYS = {"interactions": "interaction", "items": "item", "users": "user"}
_LARGE = 300 * 2**20  # bytes; larger files are described by their beginning only
_TRIES = 6
_MOST_FILES = 20  # of a folder that are examined one by one; more are parts of one table
_THOUSANDS = r"^[1-9]\d{0,2}(,\d{3})+$"
_MOST_ROWS = 300_000  # maximum number of rows of a table that are read


@dataclass
class Inspection:
    """The description of some files."""

    section: dict[str, Any]
    """Sections of a recipe: `data`, and `split` if the default does not apply."""
    seen: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def yaml(self) -> str:
        """The sections as YAML, with a search for the training settings, whose defaults suit sparse data."""
        return dump({**self.section, "search": {}})


@dataclass
class _Described:
    name: str
    """The source as it was given."""
    place: str | dict[str, Any]
    """The source as in a recipe."""
    files: list[SourceFile]
    look: Look
    reading: Reading
    in_log: int = 0
    """Number of ids of this file that the log names."""
    left_out: bool = False


def inspect(places: Sequence[str]) -> Inspection:
    """Describes files: which of them contain interactions, items and users, their formats, and the meanings of their
    columns.

    The description is tested: small files are read with it, and problems are fixed by settings or reported. Remote
    sources are read into a temporary folder.

    Args:
        places: files, folders, globs, URLs, and tables in the notation of `darec.dataset.addresses`.

    Raises:
        UserError: no file contains interactions, or the layout of a file is not supported.
        TransientError: a source cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="darec-") as copies:
        return _inspected(places, Path(copies))


def _inspected(places: Sequence[str], copies: Path) -> Inspection:
    if len(places) == 1 and Path(places[0]).is_dir() and (named := _public(Path(places[0]), copies)):
        return named

    described = [_described(each, copies) for place in places for each in _tables_in(place)]
    _relate(described)
    found = Inspection({"data": {}})
    by_role: dict[Role, list[_Described]] = {}
    for each in sorted(described, key=lambda each: -each.in_log):
        if not each.left_out:
            by_role.setdefault(each.reading.role, []).append(each)

    if "interactions" not in by_role:
        columns = "; ".join(f"{each.name}: {', '.join(each.look.columns[:10])}" for each in described)
        hint = "name a file of interactions, with a column of users and one of items"
        hint = next(filter(None, map(_conversion, described)), hint)
        raise UserError(f"no file looks like interactions ({columns})", where=", ".join(places), hint=hint)

    _describe_interactions(found, by_role["interactions"])
    for role in ("items", "users"):
        for each in by_role.get(role, [])[:1]:
            _describe_entities(found, role, each)
        for each in by_role.get(role, [])[1:]:
            found.doubts.append(f"{each.name} also looks like {role}, and is left out")

    for each in described:
        found.seen.append(_layout(each))
        found.doubts += [f"{each.name}: {doubt}" for doubt in (*each.look.doubts, *each.reading.doubts)]
    _settle(found, copies)
    return found


def _conversion(each: _Described) -> str | None:
    """How to write interactions that a file holds in a form that is not read; None if it holds none."""
    look = each.look
    if len(look.columns) >= 20 and _is_wide(look):
        return "the file has a column per item: write one row per user and item (unpivot in Polars, melt in pandas)"
    lists = [name for number, name in enumerate(look.columns) if _are_lists(look.column(number))]
    if lists and len(look.columns) < 20:
        return f"{lists[0]!r} holds several values per row: write one row per user and item (explode in Polars)"
    return None


def _is_wide(look: Look) -> bool:
    """Whether most columns have numbers or nothing."""
    columns = [look.column(number) for number in range(1, len(look.columns))]
    numeric = [values for values in columns if all(not value.strip() or is_number(value) for value in values)]
    return len(numeric) > 0.8 * len(columns)


def _are_lists(values: list[str]) -> bool:
    filled = [value for value in values if value.strip()]
    return bool(filled) and sum(bool(re.search(r"^[\[{]|\S[,|;] ?\S", value)) for value in filled) > 0.5 * len(filled)


def _tables_in(place: str) -> list[str]:
    """The files of a folder if they have different columns, else the place itself."""
    folder = Path(place)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in found if not is_hidden(path.name) and not ABOUT.fullmatch(path.name)]
    if not paths or len(paths) > _MOST_FILES or any(path.is_dir() for path in paths):
        return [place]

    tables: dict[str, tuple[str, ...]] = {}
    for path in paths:
        with suppress(UserError):
            look = look_at(path)
            if _is_named(look) and len(look.columns) > 1 and look.rows:
                tables[str(path)] = tuple(look.columns)
    return list(tables) if len(set(tables.values())) > 1 else [place]


def _described(name: str, copies: Path) -> _Described:
    place = place_of(name)
    config = _validated({"source": "csv", "interactions": place})
    fetch(config, copies, limit=_MOST_ROWS)
    files = expand(local(config, copies).interactions or "", "interactions")
    look = look_at(files[0].path)
    if not any(value.strip() for row in look.rows for value in row):
        shown = f"its first line is {look.first_line[:80]!r}" if look.first_line.strip() else "it is empty"
        raise UserError(
            "no value can be read from the file", where=name, hint=f"{shown}: correct the file, or name another"
        )
    if files[0].partition:
        names = [name for name, _ in files[0].partition]
        values = [value or "" for _, value in files[0].partition]
        look = Look(
            look.path,
            look.form,
            look.columns + names,
            [row + values for row in look.rows],
            look.first_line,
            look.doubts,
        )
    look, reading = _unnested(look)
    return _Described(name, place, files, look, reading)


def _unnested(look: Look) -> tuple[Look, Reading]:
    """The way to read a file that shows interactions: JSON may hold them in nested objects."""
    reading = read_roles(look)
    ids = [
        value for meaning in ("user", "item") for value in look.column(reading.columns.get(meaning, len(look.columns)))
    ]
    are_nested = any(value.startswith(("{", "[")) for value in ids[:1] + ids[-1:])
    if reading.role == "interactions" and not are_nested and not reading.doubts:
        return look, reading
    for nested in nested_looks(look):
        other = read_roles(nested)
        if other.role == "interactions" and {"user", "item"} <= other.columns.keys() and not other.doubts:
            return nested, other
    return look, reading


def _relate(described: list[_Described]) -> None:
    """Of files without telling names, ids say what they describe: the items or the users of the first log.

    A file whose first column never has a value twice describes what the log names; two parts of one log are read
    alike.
    """
    logs = [each for each in described if each.reading.role == "interactions"]
    main = next((each for each in logs if _repeats(each.look.column(each.reading.columns["user"]))), None)
    if main is None:
        return
    columns, separator = main.reading.columns, main.reading.item_separator
    rating = main.reading.item_rating_separator or "\n"
    items = {
        part.rpartition(rating)[0] or part.strip(" '\"[]")
        for value in main.look.column(columns["item"])
        for part in (value.split(separator) if separator else [value])
    }
    users = set(main.look.column(columns["user"]))
    for each in logs:
        # A log has more than one row of some user, and says more of a row than who and what.
        key, found = each.reading.columns["user"], each.reading.columns.keys()
        is_log = {"rating", "timestamp", "event"} & found or not {"rating", "timestamp", "event"} & columns.keys()
        if each is not main and not is_log and not _repeats(each.look.column(key)):
            each.reading = Reading("users", {"user": key})
    _relate_named([each for each in described if each is not main and _is_named(each.look)], main, items)
    for each in described:
        if each is main or _is_named(each.look) or each.reading.columns == columns:
            continue
        keys = each.look.column(0)
        if _repeats(keys):
            continue
        of_items, of_users = len(items.intersection(keys)), len(users.intersection(keys))
        role: Role = "items" if of_items > of_users else "users"
        if of_items != of_users and each.reading.role != role:
            each.reading = entities_of(each.look, role)


def _relate_named(described: list[_Described], log: _Described, items: set[str]) -> None:
    """Of files of items, the key is the column with the ids that the log names. A file with the users of a log's
    baskets is told, because darec does not join files.
    """
    for each in described:
        columns, look = each.reading.columns, each.look
        if each.reading.role == "items":
            keys = [number for number in range(len(look.columns)) if not _repeats(look.column(number))]
            named = {number: len(items.intersection(look.column(number))) for number in {columns["item"], *keys}}
            if not named[columns["item"]]:
                columns["item"] = max(named, key=lambda number: (named[number], number == columns["item"]))
            each.in_log = named[columns["item"]]
        elif each.reading.role == "users":
            basket = log.look.columns[log.reading.columns["user"]]
            user = look.columns[columns["user"]]
            if basket in look.columns and basket != user:
                log.reading.doubts.append(
                    f"{basket!r} is read as the user, but {each.name} has the {user!r} of each {basket!r}: join both "
                    "files, for example in the query of a DuckDB source, and read the result"
                )
                each.left_out = True


def _is_named(look: Look) -> bool:
    return not re.fullmatch(r"column_\d+", look.columns[0])


def _repeats(values: list[str]) -> bool:
    return len(set(values)) < len(values)


def _describe_interactions(found: Inspection, described: list[_Described]) -> None:
    data, first = found.section["data"], described[0]
    data["source"] = _source(first.look)
    parts = {part_of(Path(each.name).name): each.place for each in described}
    if len(described) > 1 and any(not isinstance(each.place, str) for each in described):
        found.doubts.append(
            f"only {first.name} is read: a table cannot be combined with other places, so unite several in one query"
        )
        data["interactions"] = first.place
    elif len(described) > 1 and None not in parts and "train" in parts:
        data["interactions"] = {part: parts[part] for part in ("train", "val", "test") if part in parts}
        found.section["split"] = {"strategy": "column"} | ({} if "val" in parts else {"val_share": 0.1})
    else:
        data["interactions"] = first.place if len(described) == 1 else [each.place for each in described]
    _describe_format(data, "interaction", first, data["source"])
    columns = first.reading.columns
    mapped: dict[str, Any] = {}
    for meaning in ("user", "item", "rating", "timestamp", "split", "event"):
        if meaning in columns and not (meaning == "rating" and first.reading.item_rating_separator):
            mapped[meaning] = _name(first.look, columns[meaning])
    if first.look.form.format == "lightgcn":
        mapped = {}
    data["interaction_columns"] = {key: value for key, value in mapped.items() if value != f"{key}_id"}
    if not data["interaction_columns"]:
        del data["interaction_columns"]
    _describe_values(found, first, columns)


def _describe_values(found: Inspection, first: _Described, columns: dict[str, int]) -> None:
    """The threshold, the events and the split that follow from the values."""
    data = found.section["data"]
    if "rating" in columns:
        values = pl.Series(first.look.column(columns["rating"]), dtype=pl.String)
        comma = None
        if _numbers(values).null_count() == len(values) and values.str.contains(_THOUSANDS).all():
            comma = data.setdefault("interaction_format", {})["decimal_comma"] = False
            found.doubts.append(f"ratings such as {values[0]!r} are taken for thousands, not for fractions")
        scale = scale_of(_numbers(values, comma))
        if scale is not None and not scale.is_stars:
            data["min_rating"] = scale.suggestion
            found.doubts.append(f"ratings are {scale.words}: is {_shown(scale.suggestion)} the right data.min_rating?")

    if first.reading.item_rating_separator:
        data["min_rating"] = 1

    if "event" in columns:
        events = sorted(set(filter(None, first.look.column(columns["event"]))))
        weights = event_weights(events)
        if weights and len(events) > 1:
            data["events"] = weights
            found.doubts.append(f"events are weighted by their names: correct data.events ({', '.join(events)})")
        elif len(events) > 1:
            found.doubts.append(
                f"events {', '.join(events[:10])} have the same weight: set data.events to weight or choose them"
            )

    if "split" in columns:
        found.section.setdefault("split", {"strategy": "column"})
    elif "timestamp" not in columns:
        found.section.setdefault("split", {"strategy": "random"})
        found.seen.append("no column has times: the split is random")
    if first.reading.timestamp_unit is not None:
        data["timestamp_unit"] = first.reading.timestamp_unit


def _describe_entities(found: Inspection, role: Role, each: _Described) -> None:
    data, key = found.section["data"], _KEYS[role]
    data[role] = each.place
    _describe_format(data, key, each, data["source"])
    columns = {meaning: _name(each.look, number) for meaning, number in each.reading.columns.items()}
    mapped: dict[str, Any] = {
        name: value for name, value in columns.items() if value != (name if name == "title" else f"{name}_id")
    }
    if role == "items" and "title" not in columns:
        mapped["title"] = None
    if mapped:
        data[f"{key}_columns"] = mapped


def _describe_format(data: dict[str, Any], key: str, each: _Described, source: str) -> None:
    """The settings of a file's format that do not follow from `source`."""
    settings = each.look.form.model_dump(exclude_defaults=True)
    own = settings.pop("format")
    if (own == "tsv" and source == "csv") or (own == "csv" and source == "tsv"):
        settings = {"separator": settings.get("separator", {"csv": ",", "tsv": "\t"}[own])} | settings
    elif own != source:
        settings = {"format": own} | settings
    if each.reading.item_separator:
        settings["item_separator"] = each.reading.item_separator
    if each.reading.item_rating_separator:
        settings["item_rating_separator"] = each.reading.item_rating_separator
    if settings:
        data[f"{key}_format"] = settings


def _source(look: Look) -> str:
    return str(look.form.format)


def _name(look: Look, number: int) -> str | int:
    """The column's name, or its number if the file has no names."""
    name = look.columns[number]
    return number + 1 if re.fullmatch(r"column_\d+", name) else name


def _layout(each: _Described) -> str:
    settings = each.look.form.model_dump(exclude_defaults=True)
    kind = settings.pop("format")
    told = ", ".join([str(kind), *(f"{name} {value!r}" for name, value in settings.items())])
    names = ", ".join(f"{meaning} {_name(each.look, number)!r}" for meaning, number in each.reading.columns.items())
    more = f" and {len(each.files) - 1} more" if len(each.files) > 1 else ""
    unread = [name for number, name in enumerate(each.look.columns) if number not in each.reading.columns.values()]
    rest = f"; not read: {', '.join(unread[:20])}" if unread and each.reading.role == "interactions" else ""
    return f"{each.name}{more}: {each.reading.role} ({told}); {names}{rest}"


def _validated(section: Mapping[str, Any]) -> DataConfig:
    try:
        return DataConfig.model_validate(section)
    except ValidationError as error:
        raise explain(error, "darec data inspect", DataConfig) from None


def _settle(found: Inspection, copies: Path) -> None:
    """Reads the files with it. Settings that resolve errors in the data are added and reported as doubts."""
    data = local(_validated(found.section["data"]), copies)
    size = sum(file.path.stat().st_size for files in source_files(data).values() for file in files)
    if size > _LARGE:
        found.doubts.append(f"the files were not read completely, because they have {size / 2**30:.1f} GiB")
        return

    # Each attempt may reveal another error, whose setting is added for the next attempt.
    for _ in range(_TRIES):
        try:
            config = local(DataConfig.model_validate(found.section["data"]), copies)
            raw = read_source(config, copies / "unpacked")
            cleaned = clean(raw, config)
            split_interactions(cleaned.interactions, SplitConfig.model_validate(found.section.get("split", {})))
        except AnswerableError as error:
            found.doubts.append(str(error))
            if not error.settings:
                return
            _answer(found.section, error.settings)
        except UserError as error:
            found.doubts.append(f"this cannot be read yet: {error}")
            return
        else:
            _tell(found, raw, cleaned.report)
            return


def _answer(section: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Merges the settings into the sections, without files that are null; without timestamps the split is random."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _answer(section.setdefault(name, {}), value)
        elif value is None and name in _KEYS:
            for part in (name, f"{_KEYS[name]}_columns", f"{_KEYS[name]}_format"):
                section.pop(part, None)
        else:
            section[name] = list(value) if isinstance(value, tuple) else value
    if section.get("data", {}).get("interaction_columns", {}).get("timestamp", "") is None:
        section["split"] = {"strategy": "random"}


def _tell(found: Inspection, raw: RawData, report: Mapping[str, Any]) -> None:
    found.seen += report["notes"]
    found.seen += _attributes(raw)
    counts = ", ".join(f"{name} {report[name]:,}" for name in ("rows_in", "rows_out", "users", "items"))
    found.seen.append(f"read: {counts}")
    found.doubts += IngestReport.model_validate(report).remarks
    log = found.section["data"].get("interactions")
    if isinstance(log, Mapping) and "kind" in log and report["rows_in"] >= _MOST_ROWS:
        found.doubts.append("the table was read in part: all numbers are those of its first rows")


def _attributes(raw: RawData) -> list[str]:
    """The columns that become text for the LLM, and the others."""
    lines = []
    for role, table in (("items", raw.items), ("users", raw.users)):
        if table is not None:
            shown = ", ".join(table.attributes) or "none"
            left = f"; left out: {', '.join(table.unread)}" if table.unread else ""
            lines.append(f"attributes of {role} worth showing to an LLM: {shown}{left}")
    return lines


def _numbers(values: pl.Series, decimal_comma: bool | None = None) -> pl.Series:
    return values.to_frame("text").select(parsed(pl.col("text"), decimal_comma)).to_series()


def _shown(value: float | None) -> str:
    return "null (every row is a like)" if value is None else f"{value:g}"


def _public(folder: Path, copies: Path) -> Inspection | None:
    """The public data set that a folder holds, if its files have the names of one."""
    for name, path in SOURCES.items():
        if path is None:
            continue
        config = DataConfig(source=name, folder=folder)
        try:
            resolved = resolve(config)
        except UserError:
            continue
        first = expand(resolved.interactions or "", "interactions")[0].path
        if not _has_own_name(name, first):
            continue
        try:
            read_source(config, copies / "unpacked")
        except UserError:  # files of the same names with other columns
            continue
        found = Inspection({"data": {"source": name, "folder": str(folder)}}, [f"{folder}: {name}"])
        _settle(found, copies)
        return found
    return None


def _has_own_name(source: str, path: Path) -> bool:
    """Whether the file's name is specific to a data set."""
    return not source.startswith("amazon") or re.match(r"ratings_|reviews_", path.name) is not None
