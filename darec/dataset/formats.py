"""Opens files lazily, with one function per layout: `@FORMATS.register("csv")`. Text columns stay text."""

import ast
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from darec.common.errors import UserError
from darec.common.registry import Registry
from darec.dataset.files import SourceFile
from darec.dataset.look import (
    ASSIGNED,
    WHITESPACE,
    header_lines,
    rows_within,
    stray_quotes,
    unnested,
    with_doubled_quotes,
)
from darec.dataset.raw import MORE_FIELDS, common_type, instead_of, name_of, reading
from darec.dataset.unpack import Scratch, head_of, plain_text, refuse_binary
from schemas import columns as c
from schemas.data import Column, FileFormat

_PLAIN = {
    "csv": FileFormat(separator=",", header=True),
    "tsv": FileFormat(separator="\t", header=True),
    "recbole": FileFormat(separator="\t", header=True, quote="none"),
    "lightgcn": FileFormat(separator=WHITESPACE, header=False),
    "headings": FileFormat(separator=",", header=False),
    "matrix": FileFormat(separator=",", header=False),
}
_JSON_SAMPLE = 10_000  # number of rows that are searched for fields
_LARGEST_OBJECT = 2**28  # characters

FORMATS: Registry[pl.LazyFrame] = Registry("file format")
"""Functions of the path, the completed format and a folder for unpacked copies, by the name of the format."""


def completed(given: FileFormat, source: str, encoding: str) -> FileFormat:
    """`given`, completed by the source's layout and the encoding of all files."""
    name = given.format or source
    plain = _PLAIN.get(name, FileFormat())
    missing = {field for field in ("separator", "header", "quote") if getattr(given, field) is None}
    filled = {field: getattr(plain, field) for field in missing}
    if given.names is not None and given.header is None:
        filled["header"] = False
    return given.model_copy(update={**filled, "format": name, "encoding": given.encoding or encoding})


def open_files(files: Sequence[SourceFile], form: FileFormat, scratch: Scratch, keys: Sequence[Column]) -> pl.LazyFrame:
    """All rows of the files, with the columns from the names of folders, and the part of the split as `split`.

    Other columns than `keys` may be in some of the files only; they are null in the rows of the others.

    Args:
        files: the files of one role.
        form: their completed format.
        scratch: a folder for unpacked copies.
        keys: the columns of ids, without which rows cannot be used.

    Raises:
        UserError: a file is damaged, has another layout, lacks a column of ids that the other files have, or has a
            column of a type that cannot be mixed with that of the other files.
    """
    frames = [_with_constants(open_file(file.path, form, scratch), file) for file in files]
    if len(frames) == 1:
        return frames[0]
    _check_types(files, frames)
    with reading(files[0].path):
        rows = pl.concat(frames, how="diagonal_relaxed")
        present = rows.collect_schema().names()
    names = [name for key in keys if (name := name_of(key, present)) is not None]
    for file, frame in zip(files, frames, strict=True):
        _check_columns(frame, names, file.path)
    return rows


def _check_types(files: Sequence[SourceFile], frames: Sequence[pl.LazyFrame]) -> None:
    """Raises UserError for the first file with a column whose values cannot be mixed with those of the files before."""
    known: dict[str, pl.DataType] = {}
    for file, frame in zip(files, frames, strict=True):
        with reading(file.path):
            schema = frame.collect_schema()
        for name, kind in schema.items():
            common = common_type(known.get(name, kind), kind)
            if common is None:
                what = f"column {name!r} is {kind} in this file, and {known[name]} in the files before it"
                raise UserError(what, where=str(file.path), hint="write the column with one type in all files")
            known[name] = common


def _check_columns(rows: pl.LazyFrame, wanted: Sequence[str], path: Path) -> None:
    """Raises UserError if a file with rows lacks a column: it may have been renamed since the other files."""
    present = [name for name in rows.collect_schema().names() if name != MORE_FIELDS]
    missing = next((name for name in wanted if name not in present), None)
    if missing is None:
        return
    with reading(path):
        if rows.head(1).collect().is_empty():
            return
    what = f"there is no column {missing!r}, which other files of the source have; {instead_of(missing, present)}"
    hint = "name the columns alike in all files, or leave this file out; `darec data fetch --full` reads a table again"
    raise UserError(what, where=str(path), hint=hint)


def open_file(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """The rows of one file of a completed format."""
    assert form.format is not None
    return FORMATS.make(form.format, path, form, scratch)


def _with_constants(rows: pl.LazyFrame, file: SourceFile) -> pl.LazyFrame:
    constants = [pl.lit(value, pl.String).alias(name) for name, value in file.partition]
    if file.part is not None:
        constants.append(pl.lit(file.part).alias(c.SPLIT))
    return rows.with_columns(constants) if constants else rows


@FORMATS.register("csv")
@FORMATS.register("tsv")
def _delimited(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """Delimited text. Additional fields of a row are in the column `MORE_FIELDS`, null if there are none."""
    names, form, skip = _columns(path, form)
    text = _text(path, form, scratch)
    assert form.separator is not None
    if len(form.separator) > 1 or form.last_takes_rest:
        return _split_lines(text, path, form, names, skip)

    quote = None if form.quote == "none" else (form.quote or '"')
    with reading(path):
        return pl.scan_csv(
            text,
            separator=form.separator,
            quote_char=quote,
            has_header=False,
            skip_lines=skip,
            comment_prefix=form.comment,
            schema=dict.fromkeys([*names, MORE_FIELDS], pl.String),
            missing_columns="insert",
            extra_columns="ignore",
            raise_if_empty=False,
            glob=False,
        )


@FORMATS.register("recbole")
def _recbole(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """A RecBole atomic file: its header fields are `name:type`; the types are dropped.

    A sequence `item_id_list` beside `item_id` is the history before that item: it becomes separate rows.
    """
    rows = _delimited(path, form, scratch)
    typed = rows.collect_schema().names()
    names = {name: name.rpartition(":")[0] or name for name in typed}
    rows = rows.rename(names)
    lists = {name: name.removesuffix("_list") for name in names.values() if name.endswith("_list")}
    joint = {name: last for name, last in lists.items() if last in names.values()}
    if not joint:
        return rows
    whole = [pl.concat_str(name, last, separator=" ", ignore_nulls=True).str.split(" ") for name, last in joint.items()]
    rows = rows.with_columns(values.alias(last) for values, last in zip(whole, joint.values(), strict=True))
    return rows.drop(list(joint)).explode(list(joint.values()))


@FORMATS.register("lightgcn")
def _lightgcn(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """LightGCN's files: a line is a user and the items of that user, separated by blanks.

    With `skip_columns` the first words are not users: the user is the number of the line, from 1.
    """
    text = _text(path, form, scratch)
    with reading(path):
        line = pl.scan_lines(text, glob=False).select(pl.col("line").str.strip_chars("\ufeff"))
    line = line.filter(pl.col("line").str.contains(r"\S"))
    blank = form.separator in (None, WHITESPACE)
    word = r"\S+" if blank else f"[^\\s{re.escape(form.separator or '')}]+"
    words = line.select(pl.col("line").str.extract_all(word)).with_row_index("number", offset=1)
    user = pl.col("number").cast(pl.String) if form.skip_columns else pl.col("line").list.first().str.strip_suffix(":")
    items = pl.col("line").list.slice(form.skip_columns or 1)
    pairs = words.select(user.alias(c.USER), items.alias(c.ITEM))
    return pairs.explode(c.ITEM).filter(pl.col(c.ITEM).is_not_null())


@FORMATS.register("json")
def _json(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """JSON lines, a JSON array of objects, or lines of Python dictionaries (Amazon's metadata of 2014), as text.

    Numbers and booleans become text; lists and objects become their JSON text.
    """
    text = _text(path, form, scratch)
    if form.flatten or form.records or not _is_strict_lines(text):
        text = _as_json_lines(text, path, form, scratch)
    with text.open(encoding="utf-8") as stream:
        sample = list(itertools.islice((line for line in stream if line.strip()), _JSON_SAMPLE))
    try:
        fields = list(dict.fromkeys(itertools.chain.from_iterable(json.loads(line) for line in sample)))
    except (ValueError, TypeError) as error:
        raise _no_json(path, str(error)) from error
    with reading(path):
        return pl.scan_ndjson(text, schema=dict.fromkeys(fields, pl.String))


@FORMATS.register("blocks")
def _blocks(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """Blocks of lines `name: value`, a blank line between them: each block is a row, the names are the columns."""
    text, copy = _text(path, form, scratch), scratch.new(".jsonl")
    with text.open(encoding="utf-8") as lines, copy.open("w", encoding="utf-8") as out:
        for filled, block in itertools.groupby(lines, key=lambda line: bool(line.strip())):
            if filled:
                pairs = (line.partition(":") for line in block)
                row = {name.strip(): value.strip() for name, mark, value in pairs if mark}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return _json(copy, FileFormat(format="json", encoding="utf-8"), scratch)


@FORMATS.register("headings")
def _headings(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """A line `item:` above the rows of that item, as in the Netflix Prize. It becomes the second column."""
    assert form.separator is not None
    text = _text(path, form, scratch)
    names, _, _ = _columns(path, form.model_copy(update={"skip_lines": form.skip_lines + 1}))
    with reading(path):
        lines = pl.scan_lines(text, glob=False).slice(form.skip_lines)
    line = pl.col("line").str.strip_chars(" \r\ufeff")
    heading = pl.when(line.str.contains(r"^[^\s,;|:]+:$")).then(line.str.strip_suffix(":"))
    rows = lines.select(line.str.split(form.separator).alias("fields"), heading.alias("own"))
    rows = rows.with_columns(heading=pl.col("own").forward_fill()).filter(pl.col("own").is_null())
    first, *others = (pl.col("fields").list.get(number, null_on_oob=True) for number in range(len(names)))
    values = [first, pl.col("heading"), *others]
    rows = rows.filter(pl.col("fields").list.first() != "")
    return rows.select(value.alias(f"column_{number}") for number, value in enumerate(values, 1))


@FORMATS.register("matrix")
def _matrix(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    """Users as rows and items as columns: `user_id` numbers the rows from 1, `item_id` is the name in the header, or
    the number of the column. Cells that are missing by `null_values` are no rows."""
    rows = _delimited(path, form, scratch)
    names = [name for name in rows.collect_schema().names() if name != MORE_FIELDS][form.skip_columns :]
    items = {name: name if form.header else str(number) for number, name in enumerate(names, 1)}
    cells = (
        rows.select(names).rename(items).with_row_index(c.USER, offset=1).with_columns(pl.col(c.USER).cast(pl.String))
    )
    pairs = cells.unpivot(index=c.USER, variable_name=c.ITEM, value_name=c.RATING)
    given = pl.col(c.RATING).str.strip_chars()
    return pairs.filter(given.is_not_null() & ~given.str.to_lowercase().is_in(list(form.null_values)))


@FORMATS.register("parquet")
def _parquet(path: Path, form: FileFormat, scratch: Scratch) -> pl.LazyFrame:
    if not is_parquet(path):
        what = "this is not a Parquet file, or it is truncated or damaged"
        raise UserError(what, where=str(path), hint="write the file again, or correct data.source")
    with reading(path):
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        rows.collect_schema()
    return rows


def is_parquet(path: Path) -> bool:
    """Whether the file begins as Parquet files do."""
    return head_of(path, "none", 4).data == b"PAR1"


def _text(path: Path, form: FileFormat, scratch: Scratch) -> Path:
    assert form.encoding is not None
    return plain_text(path, form.encoding, scratch, form.compression, form.escape)


def _columns(path: Path, form: FileFormat) -> tuple[list[str], FileFormat, int]:
    """The column names of a delimited file, its format completed from the first lines, and the
    number of lines to skip.
    """
    assert form.encoding is not None
    head = head_of(path, form.compression)
    refuse_binary(path, head, head.encoding or form.encoding)
    lines = head.text(form.encoding).split("\n")
    declared, first, header = header_lines(lines, form)
    if declared is not None:
        form = form.model_copy(update={"separator": declared})
    if form.quote is None:
        rows = [with_doubled_quotes(line) for line in lines[first:]] if form.escape else lines[first:]
        form = form.model_copy(update={"quote": "none" if stray_quotes(rows, form) else '"'})
    if not header:
        if head.whole and not "".join(lines).strip():
            raise UserError("the file is empty", where=str(path), hint="give a file with a header line and rows")
        header = [""]
    names = list(form.names or ()) or (header if form.header else [f"column_{n}" for n, _ in enumerate(header, 1)])
    names += [f"column_{number}" for number in range(len(names) + 1, len(header) + 1)]
    return _unique(names), form, first + (form.header or False)


def _unique(names: list[str]) -> list[str]:
    """The names, with repeated ones numbered as in Polars."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        unique.append(name if count == 0 else f"{name}_duplicated_{count - 1}")
        seen[name] = count + 1
    return unique


def _split_lines(text: Path, path: Path, form: FileFormat, names: list[str], skip: int) -> pl.LazyFrame:
    """A file whose separator has several characters: lines are split individually, and fields cannot contain line
    breaks.
    """
    assert form.separator is not None
    with reading(path):
        line = pl.scan_lines(text, glob=False).slice(skip).select(pl.col("line").str.strip_chars("\r\ufeff"))
    if form.comment:
        line = line.filter(~pl.col("line").str.starts_with(form.comment))
    if form.separator == WHITESPACE:
        fields = pl.col("line").str.extract_all(r"\S+")
    elif form.last_takes_rest:
        fields = pl.concat_list(pl.col("line").str.splitn(form.separator, len(names)).struct.field("*"))
    else:
        fields = pl.col("line").str.split(form.separator)
    rows = line.filter(pl.col("line") != "").select(fields=fields)
    values = [pl.col("fields").list.get(number, null_on_oob=True) for number in range(len(names))]
    if form.quote != "none" and not form.last_takes_rest:
        values = [_unquoted(value, form.quote or '"') for value in values]
    more = pl.col("fields").list.slice(len(names)).list.join(form.separator)
    return rows.select(
        *(value.alias(name) for value, name in zip(values, names, strict=True)),
        pl.when(more != "").then(more).alias(MORE_FIELDS),
    )


def _unquoted(value: pl.Expr, quote: str) -> pl.Expr:
    is_quoted = value.str.starts_with(quote) & value.str.ends_with(quote) & (value.str.len_bytes() > 1)
    inner = value.str.slice(1, value.str.len_chars() - 2).str.replace_all(quote * 2, quote, literal=True)
    return pl.when(is_quoted).then(inner).otherwise(value)


def _is_strict_lines(text: Path) -> bool:
    """Whether each of the first lines is an object of strict JSON."""
    with text.open(encoding="utf-8") as stream:
        lines = list(itertools.islice((line for line in stream if line.strip()), 100))
    try:
        values = [json.loads(line, parse_constant=_refuse) for line in lines]
    except ValueError:
        return False
    is_table = len(values) == 1 and isinstance(values[0], dict) and rows_within(values[0]) is not None
    return all(isinstance(value, dict) for value in values) and not is_table


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _as_json_lines(text: Path, path: Path, form: FileFormat, scratch: Scratch) -> Path:
    """A copy with one object of strict JSON per line."""
    copy = scratch.new(".jsonl")
    with copy.open("w", encoding="utf-8") as out:
        for row in (each for value in _objects(text, path) for each in unnested(value, form)):
            out.write(json.dumps({name: _strict(value) for name, value in row.items()}, ensure_ascii=False) + "\n")
    return copy


def _objects(text: Path, path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array, of JSON lines, or of one object that contains one list of
    objects; read in blocks.
    """
    decoder = json.JSONDecoder()
    with text.open(encoding="utf-8") as stream:
        buffer, ended, number = "", False, 0
        while True:
            buffer = buffer.lstrip(" \t\r\n,[]")
            if not ended and len(buffer) < 2**16:
                block = stream.read(2**20)
                buffer, ended = buffer + block, not block
                continue

            if not buffer:
                return
            if assigned := ASSIGNED.match(buffer):
                buffer = buffer[assigned.end() :]
            try:
                value, end = decoder.raw_decode(buffer)
            except ValueError as error:
                value, end = _python_dictionary(buffer)
                if value is None and not ended and len(buffer) < _LARGEST_OBJECT:
                    block = stream.read(2**20)
                    buffer, ended = buffer + block, not block
                    continue
                if value is None:
                    raise _no_json(path, f"object {number + 1}: {error}") from error

            buffer, number = buffer[end:], number + 1
            if not isinstance(value, dict):
                raise _no_json(path, f"value {number} is not an object but {type(value).__name__}")
            if number == 1 and not ended and not buffer.strip():
                buffer = stream.read(2**20)
                ended = not buffer
            inner = rows_within(value) if number == 1 and ended and not buffer.strip(" \t\r\n]") else None
            yield from inner if inner is not None else [value]


def _python_dictionary(buffer: str) -> tuple[Any, int]:
    """The value and length of a first line that is a Python literal; None and 0 if it is not one."""
    line, _, _ = buffer.partition("\n")
    try:
        return ast.literal_eval(line), len(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None, 0


def _strict(value: Any) -> Any:
    """A value as strict JSON: NaN and infinities, which Python writes but JSON does not allow, become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_json(path: Path, reason: str) -> UserError:
    return UserError(
        f"the JSON cannot be read ({reason})", where=str(path), hint="give one JSON object per line, or an array"
    )
