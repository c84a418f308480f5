"""Recognises the format of a file from its first lines, to explain a failed read and to describe a file in a recipe."""

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darec.common.errors import UserError
from darec.dataset.unpack import Head, head_of, refuse_binary
from schemas.data import NULL_WORDS, FileFormat

WHITESPACE = "whitespace"
ASSIGNED = re.compile(r"\w+(\[[^\n]*?\])? = (?=[{\[])")
"""What stands before a value in lines of Python, as in LibraryThing's `reviews[(1, 'a')] = {...}`."""
_SEPARATORS = ("::", "\t", ";", "|", ",", "\x01", "^", "~", " ")  # the first of equally good ones is chosen
_SAMPLE_LINES = 400
_DECLARED = re.compile(r'"?sep=(.{1,2}?)"?,*$', re.IGNORECASE)
_TYPED = re.compile(r"[^:\t]+:(token|token_seq|float|float_seq)")
_ID = re.compile(r"[A-Za-z]{0,3}_?\d+")  # in lines of a user and items
_VALUED_ID = re.compile(rf"{_ID.pattern}:[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
_NUMBER = re.compile(r"[-+]?(\d[\d.,]*|\.\d+)([eE][-+]?\d+)?$")
_ESCAPED_QUOTE = re.compile(r'(^|[;,\t|])".*[^\\]\\"(?!"?([;,\t|]|$))')
_DATED = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_FOREIGN = ("utf-8", "gb18030", "cp1251", "latin-1")
_LETTERS = re.compile(rb"[\x80-\xff]+")
_MOST_FIELDS = 300  # of an object; more are ids
_ENCODINGS = ("utf-8", "cp1252", "latin-1")


@dataclass(frozen=True)
class Look:
    """The format of one file, as recognised from its first lines."""

    path: Path
    form: FileFormat
    """The format that reads the file; its field `format` is always set."""
    columns: list[str]
    """The names in the header, or column_1, column_2 and so on."""
    rows: list[list[str]] = field(repr=False)
    """A sample of rows as text."""
    first_line: str
    doubts: list[str] = field(default_factory=list)

    def column(self, number: int) -> list[str]:
        """The values of a column in the sample, without rows that are too short."""
        return [row[number] for row in self.rows if number < len(row)]


def look_at(path: Path, encoding: str | None = None) -> Look:
    """Recognises compression, encoding, layout, separator, header and quoting of a file.

    Raises:
        UserError: the file is not text in a supported layout; the hint says how to convert it.
    """
    head = head_of(path)
    if head.data.startswith(b"PAR1"):
        return _parquet(path)
    encoding = head.encoding or encoding or _encoding(head)
    refuse_binary(path, head, encoding)
    text = head.text(encoding)
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError("the file is empty", where=str(path), hint="give a file with rows")
    if _value_of(text.lstrip())[:1] in ("{", "["):
        looked = _json(path, text, lines, FileFormat(format="json"))
    else:
        looked = (
            _lightgcn(path, lines)
            or _blocks(path, text.split("\n"))
            or _headings(path, lines)
            or _matrix(path, lines)
            or _delimited(path, text.split("\n"))
        )
    if encoding == "utf-8" or head.encoding:
        return looked
    doubts = list(looked.doubts)
    if encoding in _FOREIGN:
        example = next(filter(None, re.findall(r"[^\x00-\x7f]+", text)), "")[:20]
        doubts.append(f"the encoding {encoding} is a guess: if {example!r} is not a word of the file, set another one")
    form = looked.form.model_copy(update={"encoding": encoding})
    return Look(**{**vars(looked), "form": form, "doubts": doubts})


def header_lines(lines: Sequence[str], form: FileFormat) -> tuple[str | None, int, list[str]]:
    """The beginning of a delimited file.

    Returns:
        the separator that a first line `sep=;` declares, or None; the number of lines before the header (or the first
        row); the fields of that line, empty if there is none.
    """
    index, declared = form.skip_lines, None
    if index < len(lines) and (match := _DECLARED.match(lines[index].strip())):
        declared, index = match[1], index + 1
    form = form.model_copy(update={"separator": declared or form.separator})
    while index < len(lines) and (not lines[index].strip() or (form.comment and lines[index].startswith(form.comment))):
        index += 1
    return declared, index, fields_of(lines[index], form) if index < len(lines) else []


def fields_of(line: str, form: FileFormat) -> list[str]:
    """The fields of one line of a delimited file."""
    assert form.separator is not None
    if form.separator == WHITESPACE:
        return line.split()
    if form.quote == "none":
        return line.split(form.separator)
    if len(form.separator) > 1:
        return [_unquoted(each, form.quote or '"') for each in line.split(form.separator)]
    try:
        return next(csv.reader(io.StringIO(line), delimiter=form.separator, quotechar=form.quote or '"'), [])
    except csv.Error:  # a field of more than 128 KiB
        return line.split(form.separator)


def _unquoted(value: str, quote: str) -> str:
    is_quoted = len(value) > 1 and value.startswith(quote) and value.endswith(quote)
    return value[1:-1].replace(quote * 2, quote) if is_quoted else value


def stray_quotes(lines: Sequence[str], form: FileFormat) -> bool:
    """Whether quote characters in these lines are literal: as quotes, they would merge several rows."""
    separator = form.separator
    lines = [line for line in lines if line]
    if separator is None or not any('"' in line for line in lines):
        return False
    counts = Counter(len(line.split(separator)) for line in lines)
    if len(counts) != 1:
        return False
    if len(separator) > 1:
        return False
    starts = re.compile(rf'(?:^|{re.escape(separator)})\s*"')
    if any(line.count('"') % 2 for line in lines) and not any(map(starts.search, lines)):
        return True  # quotes within fields, which Polars would take for the beginning of quoted fields
    opening = re.compile(rf'(?:^|{re.escape(separator)})"(?:[^"]|"")*(?:$|"[^"{re.escape(separator)}])')
    return any(opening.search(line) for line in lines if '"' in line)


def with_doubled_quotes(text: str) -> str:
    r"""The text with escaped quotes (`\"`) doubled."""
    return text.replace('\\"', '""')


def is_number(value: str) -> bool:
    """Whether a text is a number, possibly with commas or points."""
    return _NUMBER.match(value.strip()) is not None


def looks_like_data(field_text: str) -> bool:
    """Whether a field of the first line is a value and not the name of a column."""
    value = field_text.strip()
    return is_number(value) or _DATED.search(value) is not None


def shown(line: str, width: int = 80) -> str:
    """The beginning of a line for a message."""
    return repr(line if len(line) <= width else line[: width - 1] + "…")


def _encoding(head: Head) -> str:
    """The first encoding that can decode the head; bytes that only latin-1 can decode are rare in cp1252 texts."""
    runs = _LETTERS.findall(head.data)
    is_foreign = sum(map(len, runs)) > 3 * len(runs)  # in words of Western Europe such letters are single
    for encoding in _FOREIGN if is_foreign else _ENCODINGS:
        try:
            head.data[: None if head.whole else -4].decode(encoding)
        except UnicodeDecodeError as error:
            if encoding == "utf-8" and not head.whole and error.start >= len(head.data) - 8:
                return encoding
            continue
        return encoding
    return "latin-1"


def nested_looks(look: Look, encoding: str | None = None) -> Iterator[Look]:
    """Other ways to read a JSON file: nested objects as columns, and the objects of a list as rows."""
    if look.form.format != "json" or not any(value[:1] in ("{", "[") for row in look.rows for value in row):
        return
    head = head_of(look.path)
    text = head.text(look.form.encoding or head.encoding or encoding or "utf-8")
    lines = [line for line in text.split("\n") if line.strip()]
    lists = [name for name, value in zip(look.columns, look.rows[0], strict=True) if value.startswith("[{")]
    for settings in ({"flatten": True}, *({"records": name} for name in lists)):
        nested = _json(look.path, text, lines, look.form.model_copy(update=settings))
        if len(nested.columns) <= _MOST_FIELDS:
            yield nested


def _json(path: Path, text: str, lines: list[str], form: FileFormat) -> Look:
    rows = []
    for line in lines[:_SAMPLE_LINES]:
        try:
            rows.append(json.loads(line.strip().rstrip(",")))
        except ValueError:
            continue
    rows = [row for row in rows if isinstance(row, dict)] or _json_objects(text) or _json_objects(_inner_list(text))
    if len(rows) == 1:
        rows = rows_within(rows[0]) or _refuse_single(path, rows[0])
    elif not rows and re.match(r"\s*\[\s*(\[|[\d\"])", text):
        what, hint = "the values are JSON arrays, without names", "write one object per row, or CSV"
        raise UserError(what, where=str(path), hint=hint)
    rows = [each for row in rows for each in unnested(row, form)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = [[_as_text(row.get(name)) for name in columns] for row in rows]
    return Look(path, form, columns, values, lines[0])


def _inner_list(text: str) -> str:
    """The list of objects in the beginning of an object that is too long to be decoded, as of Spotify's playlists."""
    for match in re.finditer(r'"\s*:\s*(?=\[\s*\{)', text):
        before = re.sub(r'"(\\.|[^"\\])*"', "", text[: match.start() + 1])
        if before.count("{") == before.count("}") + 1:
            return text[match.end() :]
    return ""


def _refuse_single(path: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """`row` alone, if its values are those of one row. Raises UserError for the values of many rows."""
    values = [value for value in row.values() if isinstance(value, dict | list)]
    if len(row) > _MOST_FIELDS or (len(values) == len(row) and any(len(value) > 1 for value in values)):
        names = ", ".join(map(repr, list(row)[:4]))
        what = f"the file is one JSON object with the fields {names}, not one object per row"
        hint = 'write one object per row; in pandas: to_json(path, orient="records", lines=True)'
        raise UserError(what, where=str(path), hint=hint)
    return [row]


def unnested(row: dict[str, Any], form: FileFormat) -> Iterator[dict[str, Any]]:
    """The rows of a JSON object: those of the list `form.records`, or the object, nested objects as columns."""
    if form.records is not None:
        outer = _flat({name: value for name, value in row.items() if name != form.records})
        for each in row.get(form.records) or []:
            yield outer | _flat({form.records: each})
    else:
        yield _flat(row) if form.flatten else row


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def rows_within(value: dict[str, object]) -> list[dict[str, object]] | None:
    """The only list of objects in an object such as {"count": 2, "data": [{...}, {...}]}; None otherwise."""
    inner = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    return inner[0] if len(inner) == 1 and len(inner[0]) > 1 else None


def _json_objects(text: str) -> list[dict[str, object]]:
    """The first objects of a JSON array, with any indentation, or of lines of Python dictionaries."""
    decoder, found, rest = json.JSONDecoder(), [], text.lstrip(" \n\t[,")
    while rest and len(found) < _SAMPLE_LINES:
        try:
            value, end = decoder.raw_decode(rest)
        except ValueError:
            break
        found.append(value)
        rest = rest[end:].lstrip(" \n\t\r,]")
    if not found:
        for line in text.split("\n")[:_SAMPLE_LINES]:
            try:
                found.append(ast.literal_eval(_value_of(line)))
            except (ValueError, SyntaxError):
                break
    return [value for value in found if isinstance(value, dict) and value]


def _value_of(text: str) -> str:
    """`text` from the value on that it assigns, or all of it."""
    assignment = ASSIGNED.match(text)  # a search would try every word of a long text, and take minutes
    return text[assignment.end() :] if assignment else text


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lightgcn(path: Path, lines: list[str]) -> Look | None:
    """Lines of a user and the user's items, a varying number per line: ids, or `item:value` as in libsvm's files.

    A first number that is the number of the other words counts the items, and the user is the line (CiteULike).
    """
    separator = next((each for each in ("\t", ",", ";") if each in lines[0]), None)
    sample = [line.strip().split(separator) for line in lines[:_SAMPLE_LINES]]
    users, items = [row[0].removesuffix(":") for row in sample], [word for row in sample for word in row[1:]]
    valued = bool(items) and all(_VALUED_ID.fullmatch(word) for word in items)
    if not all(map(_ID.fullmatch, users)) or not (valued or all(map(_ID.fullmatch, items))):
        return None
    if valued and (separator == "," or len(set(users)) < 0.5 * len(users)):
        what = "the lines are features with a label, as of libsvm or libFM: they do not name users and items"
        raise UserError(what, where=str(path), hint="write a table with the columns user_id, item_id and rating")
    if len(set(map(len, sample))) < (2 if valued else 3):
        return None

    counted = not valued and all(user == str(len(row) - 1) for user, row in zip(users, sample, strict=True))
    form = FileFormat(
        format="lightgcn",
        separator=separator if separator in (",", ";") else None,
        item_rating_separator=":" if valued else None,
        skip_columns=int(counted),
    )
    users = [str(number) for number in range(1, len(sample) + 1)] if counted else users
    rows = [[user, *word.split(":")] for user, row in zip(users, sample, strict=True) for word in row[1:]]
    return Look(path, form, ["user_id", "item_id", *(["rating"] if valued else [])], rows, lines[0])


def _blocks(path: Path, lines: list[str]) -> Look | None:
    """Blocks of lines `name: value`, a blank line between them, each block a row."""
    rows: list[dict[str, str]] = [{}]
    for line in lines[:_SAMPLE_LINES]:
        name, mark, value = line.partition(": ")
        if not line.strip():
            rows.append({})
        elif mark and re.fullmatch(r"[\w/ ]{1,40}", name) and name not in rows[-1]:
            rows[-1][name] = value.strip()
        else:
            return None
    rows = [row for row in rows if row]
    if len(rows) < 3 or len(rows[0]) < 2 or list(rows[0]) != list(rows[1]):
        return None
    names = list(rows[0])
    cells = [[row.get(name, "") for name in names] for row in rows]
    return Look(path, FileFormat(format="blocks"), names, cells, lines[0])


def _headings(path: Path, lines: list[str]) -> Look | None:
    """A line `item:` above the rows of that item, as in the files of the Netflix Prize."""
    if len(lines) < 3 or not is_heading(lines[0]) or is_heading(lines[1]):
        return None
    plain = [line for line in lines[:_SAMPLE_LINES] if not is_heading(line)]
    separator = _separator(plain)
    if separator is None:
        return None
    form = FileFormat(format="headings", separator=None if separator == "," else separator)
    heading, rows = "", []
    for line in lines[:_SAMPLE_LINES]:
        if is_heading(line):
            heading = line.strip()[:-1]
        else:
            first, *others = line.split(separator)
            rows.append([first, heading, *others])
    return Look(path, form, [f"column_{number}" for number in range(1, len(rows[0]) + 1)], rows, lines[0])


def is_heading(line: str) -> bool:
    """Whether a line is an id and a colon."""
    return re.fullmatch(r"[^\s,;|:]+:\s*", line) is not None


def _matrix(path: Path, lines: list[str]) -> Look | None:
    """Users as rows and items as columns, without a header: Jester's ratings, 99 where there is none."""
    separator = next((each for each in (",", "\t", ";") if each in lines[0]), None)
    rows = [line.strip().split(separator) for line in lines[:_SAMPLE_LINES]]
    width = len(rows[0])
    if separator is None or width < 20 or any(len(row) != width for row in rows):
        return None
    cells = [[cell.strip() for cell in row] for row in rows]
    if not all(not cell or is_number(cell) for row in cells for cell in row):
        return None
    word, count = Counter(cell for row in cells for cell in row).most_common(1)[0]
    missing = [word] if word and count > 0.1 * len(cells) * width else []
    there = [sum(bool(cell) and cell not in missing for cell in row[1:]) for row in cells]
    skipped = int(all(row[0] == str(number) for row, number in zip(cells, there, strict=True)))
    settings: dict[str, Any] = {"skip_columns": skipped, "separator": None if separator == "," else separator}
    form = FileFormat(format="matrix", null_values=(*NULL_WORDS, *missing), **settings)
    pairs = [
        [str(user), str(item), cell]
        for user, row in enumerate(cells, 1)
        for item, cell in enumerate(row[skipped:], 1)
        if cell and cell not in missing
    ]
    return Look(path, form, ["user_id", "item_id", "rating"], pairs, lines[0])


def _parquet(path: Path) -> Look:
    import polars as pl

    from darec.dataset.describe import as_text
    from darec.dataset.raw import reading

    with reading(path):
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False).head(_SAMPLE_LINES).collect()
    names = rows.columns
    texts = rows.lazy().select(as_text(rows.lazy(), name).alias(name) for name in names).collect().fill_null("")
    return Look(path, FileFormat(format="parquet"), names, [list(row) for row in texts.iter_rows()], str(rows.schema))


def _delimited(path: Path, lines: list[str]) -> Look:
    escape = "\\" if any(map(_ESCAPED_QUOTE.search, lines[:_SAMPLE_LINES])) else None
    lines = [with_doubled_quotes(line) for line in lines] if escape else lines
    declared = _DECLARED.match(lines[0].strip())
    body = [line for line in lines[1 if declared else 0 :][:_SAMPLE_LINES] if line.strip()]
    comment = next((mark for mark in ("#", "%", "//") if body[0].startswith(mark)), None)
    plain = [line for line in body if not (comment and line.startswith(comment))] or body

    separator = declared[1] if declared else _separator(plain)
    if separator is None:
        form, cells = FileFormat(format="csv", header=True), [[line] for line in plain[1:]]
        return Look(path, form, [plain[0]], cells, lines[0], ["no separator was found: the file has one column"])

    spaced = f"{separator} "
    if any(f'{spaced}"' in line for line in plain) and _same_widths([line.split(spaced) for line in plain]):
        separator = spaced  # a quote that follows a blank does not begin a quoted field
    form = FileFormat(separator=separator, comment=comment, escape=escape)
    if stray_quotes(plain, form) or (len(separator) > 1 and '"' not in plain[0]):
        form = form.model_copy(update={"quote": "none"})
    elif _has_single_quotes(plain, separator):
        form = form.model_copy(update={"quote": "'"})

    rows, before = _table_in(_rows(plain, form))
    skipped = [] if comment else plain[:before]
    if lines[0].startswith("%%MatrixMarket"):  # the first row has the numbers of rows, columns and entries
        rows, skipped, form = rows[1:], plain[:1], form.model_copy(update={"comment": None})
    if all(_TYPED.fullmatch(name) for name in rows[0]):
        names = [name.rpartition(":")[0] for name in rows[0]]
        return Look(path, FileFormat(format="recbole"), names, rows[1:], plain[0])

    header, doubt = _has_header(rows)
    names = ["row", *rows[0]] if header and _has_row_names(rows) else None
    settings = {
        "format": {",": "csv", "\t": "tsv"}.get(separator, "csv"),
        "separator": None if declared or separator in (",", "\t") else separator,
        "header": True if names else None if header else False,
        "names": names and tuple(names),
        "skip_lines": lines.index(skipped[-1]) + 1 if skipped else 0,
    }
    unnamed = [f"column_{number}" for number in range(1, _width(rows) + 1)]
    names = [name.strip() for name in names or rows[0]] if header else unnamed
    doubts = [doubt] if doubt else []
    doubts += [f"the first lines are not rows and are skipped: {shown(skipped[0])}"] if skipped else []
    return Look(path, form.model_copy(update=settings), names, rows[1:] if header else rows, plain[0], doubts)


def _has_single_quotes(lines: list[str], separator: str) -> bool:
    mark = re.escape(separator)
    quoted = re.compile(rf"(^|{mark})'[^']*'({mark}|$)")
    return not any('"' in line for line in lines) and sum(map(bool, map(quoted.search, lines))) > 0.9 * len(lines)


def _table_in(rows: list[list[str]]) -> tuple[list[list[str]], int]:
    """The rows of the table, and the number of rows before it.

    Lines before the table, such as a title, have another number of fields than most lines.
    """
    width = _width(rows)
    before = next(index for index, row in enumerate(rows) if len(row) in (width, width - 1) and len(row) > 1)
    return rows[before:], before


def _has_row_names(rows: list[list[str]]) -> bool:
    """Whether rows begin with a name or number for which the header has no field, as R writes them."""
    wide = [row for row in rows[1:] if len(row) == len(rows[0]) + 1]
    firsts = [row[0] for row in wide]
    return len(wide) > 0.9 * len(rows[1:]) > 0 and len(set(firsts)) == len(firsts) and any(row[-1] for row in wide)


def _same_widths(rows: list[list[str]]) -> bool:
    return len(set(map(len, rows))) == 1 < len(rows[0])


def _width(rows: list[list[str]]) -> int:
    """The number of fields of most rows."""
    return Counter(map(len, rows)).most_common(1)[0][0]


def _rows(lines: list[str], form: FileFormat) -> list[list[str]]:
    assert form.separator is not None
    if form.separator == WHITESPACE or len(form.separator) > 1 or form.quote == "none":
        return [fields_of(line, form) for line in lines]
    return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=form.separator, quotechar=form.quote or '"'))


def _separator(lines: list[str]) -> str | None:
    """The separator that splits most lines into equally many fields, if possible including one of the first."""
    best, best_score = None, 0.0
    for separator in _SEPARATORS:
        single = len(separator) == 1
        rows = _rows(lines, FileFormat(separator=separator)) if single else [line.split(separator) for line in lines]
        width, count = Counter(map(len, rows)).most_common(1)[0]
        single_fields = [len(row) == 1 for row in rows[:3]]
        score = count / len(rows) - (0.5 if all(single_fields) else 0.05 if any(single_fields) else 0)
        if width > 1 and score > best_score + 0.02 and count > 0.5 * len(rows):
            best, best_score = separator, score
    width, count = Counter(len(line.split()) for line in lines).most_common(1)[0]
    if width > 1 and best in (None, " ") and count / len(lines) > best_score + 0.02:
        return WHITESPACE

    # Numbers separated partly by tabs and partly by blanks, as in KONECT's files.
    words = [line.split() for line in lines]
    if best == "\t" and _same_widths(words) and width > len(lines[0].split("\t")):
        return WHITESPACE if all(is_number(word) for row in words for word in row) else best
    return best


def _has_header(rows: list[list[str]]) -> tuple[bool, str | None]:
    """Whether the first row is a header, and doubts about it."""
    first, rest = rows[0], rows[1:]
    named = [name for name in first if name.strip()]
    if any(looks_like_data(name) for name in named):
        return False, None
    if len(set(first)) < len(first) and "" not in first:
        return False, None
    for number in range(len(first)):
        values = [row[number] for row in rest if number < len(row) and row[number].strip()]
        if values and sum(map(looks_like_data, values)) > 0.8 * len(values):
            return True, None
    known = [
        name for name in named if re.search(r"user|item|id$|name|title|rating|time|date|event", name, re.IGNORECASE)
    ]
    again = sum(first[number] in {row[number] for row in rest if number < len(row)} for number in range(len(first)))
    if (known and again < 2) or not rest:
        return True, None
    if again:
        return False, f"the first line is read as a row: {shown(' '.join(first))}"
    return True, f"the first line is read as a header: {shown(' '.join(first))}"


def mismatch(path: Path, form: FileFormat) -> tuple[str, str] | None:
    """The difference between a file and its completed format: what it looks like, and the settings that read it.

    None if the file matches the format or cannot be examined.
    """
    try:
        look = look_at(path, form.encoding)
    except UserError:
        return None
    changes = _changes(look.form, form)
    if not changes:
        return None
    kind = {
        "json": "JSON",
        "parquet": "Parquet",
        "lightgcn": "lines of a user and its items",
        "blocks": "blocks of lines `name: value`",
        "headings": "rows below lines `item:`",
        "matrix": "a matrix of users and items",
    }.get(str(look.form.format))
    if kind is None:
        separator = _separator_of(look.form)
        kind = f"fields separated by {_named(separator)}" + (" without a header" if look.form.header is False else "")
    settings = ", ".join(f"{name}: {json.dumps(value)}" for name, value in changes.items())
    return f"the file looks like {kind}; its first line is {shown(look.first_line)}", f"{{ {settings} }}"


def _changes(seen: FileFormat, given: FileFormat) -> dict[str, object]:
    delimited = ("csv", "tsv", "recbole")
    if seen.format not in delimited or given.format not in delimited:
        return {} if seen.format == given.format else {"format": seen.format} | _settings(seen)
    changes: dict[str, object] = {}
    if _separator_of(seen) != given.separator and _separator_of(seen) is not None:
        changes["separator"] = _separator_of(seen)
    if seen.header is False and given.header:
        changes["header"] = False
    if seen.skip_lines > given.skip_lines:
        changes["skip_lines"] = seen.skip_lines
    if seen.comment and not given.comment:
        changes["comment"] = seen.comment
    return changes


def _settings(form: FileFormat) -> dict[str, object]:
    return form.model_dump(exclude_defaults=True, exclude={"format"})


def _separator_of(form: FileFormat) -> str | None:
    return form.separator or {"csv": ",", "tsv": "\t", "recbole": "\t"}.get(str(form.format))


def _named(separator: str | None) -> str:
    return {"\t": "tabs", " ": "blanks", WHITESPACE: "blanks", None: "nothing"}.get(separator, repr(separator))
