"""Reads the recipe's section `data` into three raw tables, for any layout of the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from darec.dataset.describe import as_text, attribute_list, mojibake, readable, worth_showing
from darec.dataset.errors import AnswerableError
from darec.dataset.files import SourceFile, kind_of
from darec.dataset.formats import completed, is_parquet, open_files
from darec.dataset.movielens import moved_articles
from darec.dataset.raw import MORE_FIELDS, RawTable, first_long_line, named_columns, reading
from darec.dataset.sources import resolve, source_files
from darec.dataset.unpack import Scratch
from schemas import columns as c
from schemas.data import Column, DataConfig, FileFormat

_SAMPLE = 2_000
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


@dataclass(frozen=True)
class RawData:
    """The source before cleaning."""

    interactions: RawTable
    items: RawTable | None
    users: RawTable | None


def read_source(config: DataConfig, copies: Path) -> RawData:
    """Opens the source named by `config`; rows are read when the tables are cleaned.

    Args:
        config: the section `data` of a recipe.
        copies: a folder for unpacked copies of compressed files, needed until the tables are cleaned.

    Raises:
        UserError: a file is missing or damaged, has another format than `config` says, or lacks a mapped column.
    """
    config = resolve(config)
    files = source_files(config)
    scratch = Scratch(copies, int(config.max_unpacked_gb * 1e9))
    return RawData(
        interactions=_interactions(files["interactions"], config, scratch),
        items=_items(files["items"], config, scratch) if "items" in files else None,
        users=_users(files["users"], config, scratch) if "users" in files else None,
    )


def _interactions(files: list[SourceFile], config: DataConfig, scratch: Scratch) -> RawTable:
    form, columns, path = _form(files, config, "interaction"), config.interaction_columns, files[0].path
    rows = open_files(files, form, scratch, (columns.user, columns.item))
    fields = {
        "user": c.USER,
        "item": c.ITEM,
        "rating": c.RATING,
        "timestamp": c.TIMESTAMP,
        "split": c.SPLIT,
        "event": c.EVENT,
    }

    mapped = {field: name for field in fields if (name := getattr(columns, field)) is not None}
    names = {fields[field]: name for field, name in named_columns(rows, mapped, path, form, "interaction").items()}
    if files[0].part is not None:
        names[c.SPLIT] = c.SPLIT

    present = rows.collect_schema().names()
    extra = [MORE_FIELDS] if MORE_FIELDS in present else []
    rows = rows.select(*(pl.col(name).alias(column) for column, name in names.items()), *extra)
    schema = rows.collect_schema()
    if isinstance(schema.get(c.ITEM), pl.List):
        lists = [name for name, kind in schema.items() if isinstance(kind, pl.List)]
        with reading(path):
            rows = rows.explode(lists).filter(pl.col(c.ITEM).is_not_null())
    elif form.item_separator is not None or form.item_rating_separator is not None:
        rows, names = _one_item_a_row(rows, names, form)

    unread = tuple(name for name in present if name not in names.values() and name != MORE_FIELDS)
    return RawTable(rows, path, names, form, unread)


def _one_item_a_row(rows: pl.LazyFrame, names: dict[str, str], form: FileFormat) -> tuple[pl.LazyFrame, dict[str, str]]:
    """Splits rows with several items in one field; the value after an item is its rating."""
    if form.item_separator is not None:
        text = pl.col(c.ITEM).cast(pl.String).str.strip_chars()
        is_list = text.str.contains(r"^\[.*\]$")  # as Python and JSON write it: ['a', "b"]
        items = pl.when(is_list).then(text.str.strip_chars("[]")).otherwise(text).str.split(form.item_separator)
        rows = rows.with_columns(items.alias(c.ITEM), in_list=is_list).explode(c.ITEM)
        item = pl.when("in_list").then(pl.col(c.ITEM).str.strip_chars(" '\"")).otherwise(c.ITEM)
        rows = rows.with_columns(item.alias(c.ITEM)).drop("in_list")
        rows = rows.filter(pl.col(c.ITEM).is_not_null() & (pl.col(c.ITEM) != ""))
    if form.item_rating_separator is None:
        return rows, names
    pattern = f"^(.*){_escaped(form.item_rating_separator)}([^{_escaped(form.item_rating_separator)}]*)$"
    item, rating = pl.col(c.ITEM).str.extract(pattern, 1), pl.col(c.ITEM).str.extract(pattern, 2)
    return rows.with_columns(pl.coalesce(item, c.ITEM).alias(c.ITEM), rating.alias(c.RATING)), names | {
        c.RATING: names[c.ITEM]
    }


def _items(files: list[SourceFile], config: DataConfig, scratch: Scratch) -> RawTable:
    form, columns, path = _form(files, config, "item"), config.item_columns, files[0].path
    rows = _whole_rows(open_files(files, form, scratch, (columns.item,)), path, form, "item")
    fields = {"item": c.ITEM, "title": c.TITLE, "description": c.DESCRIPTION}
    mapped = {field: name for field in fields if (name := getattr(columns, field)) is not None}
    names = {fields[field]: name for field, name in named_columns(rows, mapped, path, form, "item").items()}
    attributes = _attributes(rows, columns.attributes, set(names.values()), path, form, "item")
    title, description = (_text(rows, names, column, form) for column in (c.TITLE, c.DESCRIPTION))
    if columns.move_articles:
        title = moved_articles(title)
    texts = [name for name in (*names.values(), *attributes) if name != names[c.ITEM]]
    doubts = _strange_letters(rows, texts, path, form)
    chosen = (pl.col(names[c.ITEM]).alias(c.ITEM), title.alias(c.TITLE), description.alias(c.DESCRIPTION))
    described = rows.select(*chosen, attribute_list(rows, attributes, form.null_values))
    unread = tuple(name for name in rows.collect_schema().names() if name not in {*names.values(), *attributes})
    return RawTable(described, path, names, form, unread, tuple(attributes), doubts)


def _users(files: list[SourceFile], config: DataConfig, scratch: Scratch) -> RawTable:
    form, columns, path = _form(files, config, "user"), config.user_columns, files[0].path
    rows = _whole_rows(open_files(files, form, scratch, (columns.user,)), path, form, "user")
    user = named_columns(rows, {"user": columns.user}, path, form, "user")["user"]
    attributes = _attributes(rows, columns.attributes, {user}, path, form, "user")
    described = rows.select(pl.col(user).alias(c.USER), attribute_list(rows, attributes, form.null_values))
    unread = tuple(name for name in rows.collect_schema().names() if name not in {user, *attributes})
    doubts = _strange_letters(rows, attributes, path, form)
    return RawTable(described, path, {c.USER: user}, form, unread, tuple(attributes), doubts)


def _form(files: list[SourceFile], config: DataConfig, role: str) -> FileFormat:
    """The completed format of the files. Raises UserError if they are text that would be read as Parquet."""
    form, path = completed(getattr(config, f"{role}_format"), config.source, config.encoding), files[0].path
    own = _FORMATS.get(kind_of(path).lower())
    if form.format == "parquet" and own is not None and not is_parquet(path):
        hint = f"set data.{role}_format: {{format: {own}}}, or data.source: {own} if all files have this format"
        settings = {"data": {f"{role}_format": {"format": own}}}
        raise AnswerableError("this is not a Parquet file", where=str(path), hint=hint, settings=settings)
    return form


def _whole_rows(rows: pl.LazyFrame, path: Path, form: FileFormat, role: str) -> pl.LazyFrame:
    """The rows of a text table, in which no row may have more fields than columns."""
    names = rows.collect_schema().names()
    if MORE_FIELDS not in names:
        return rows
    long = rows.filter(pl.col(MORE_FIELDS).fill_null("") != "").select(MORE_FIELDS).head(1)
    if RawTable(rows, path, {}, form).collect(long).height:
        line = first_long_line(path, form.separator or ",", len(names) - 1)
        where = f"line {line}" if line else "a line"
        what = f"{where} has more fields than the header"
        hint = f"quote fields that hold the separator, or set data.{role}_format.last_takes_rest: true"
        settings = {"data": {f"{role}_format": {"last_takes_rest": True}}}
        raise AnswerableError(what, where=str(path), hint=hint, settings=settings)
    return rows.drop(MORE_FIELDS)


def _attributes(
    rows: pl.LazyFrame, given: tuple[Column, ...] | None, taken: set[str], path: Path, form: FileFormat, role: str
) -> list[str]:
    """The columns that become attributes: the named ones, or otherwise the unused ones that may be useful to an LLM."""
    if given is None:
        return worth_showing(rows, [name for name in rows.collect_schema().names() if name not in taken])
    mapped: Mapping[str, Column] = {f"attributes.{number}": name for number, name in enumerate(given)}
    return list(named_columns(rows, mapped, path, form, role).values())


def _text(rows: pl.LazyFrame, names: Mapping[str, str], column: str, form: FileFormat) -> pl.Expr:
    if column not in names:
        return pl.lit(None, pl.String)
    return readable(as_text(rows, names[column], form.null_values))


def _strange_letters(rows: pl.LazyFrame, columns: list[str], path: Path, form: FileFormat) -> tuple[str, ...]:
    """Doubts about UTF-8 text that was decoded as another encoding.

    Raises:
        UserError: the cause is the encoding in the recipe.
    """
    if not columns:
        return ()
    sample = RawTable(rows, path, {}, form).collect(
        rows.select(as_text(rows, name).alias(name) for name in columns).head(_SAMPLE)
    )
    found = next((found for name in columns if (found := mojibake(sample[name].to_list()))), None)
    if found is None:
        return ()
    what = f"{found[0][:60]!r} should be {found[1][:60]!r}: UTF-8 text was read as another encoding"
    if form.format != "parquet" and form.encoding not in (None, "utf-8"):
        raise UserError(what, where=str(path), hint="set encoding: utf-8 for this file")
    return (f"{what} when the file was written [{path}]",)


def _escaped(separator: str) -> str:
    return "".join(f"\\{character}" if not character.isalnum() else character for character in separator)
