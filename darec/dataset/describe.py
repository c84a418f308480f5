"""Text for the LLM from the columns of a file: selects useful columns and makes their values readable."""

import html
import re
from collections.abc import Sequence
from html.entities import name2codepoint

import polars as pl

from schemas import columns as c
from schemas.tables import ITEMS

SAMPLE_ROWS = 10_000
_INDEX_NAMES = re.compile(r"(Unnamed: \d+|__index_level_\d+__|index|level_\d+|)$")
_URL = r"^(https?|ftp)://|^www\."
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_ESCAPES = r"\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b\[[0-9;?]*[ -/]*[@-~]"  # escape sequences of terminals
_NEXT = "[89ab][0-9a-f]"  # a byte of UTF-8 after the first one of a character
_PRINTABLE_UTF8 = "^(" + "|".join((  # in hexadecimal; Polars fails on the first value that cannot be decoded
    "[2-6].|7[0-9a-e]", f"(c[2-9a-f]|d.){_NEXT}", f"e0[ab].{_NEXT}", f"e[1-9abcef]({_NEXT}){{2}}", f"ed[89].{_NEXT}",
    f"f0[9ab].({_NEXT}){{2}}", f"f[123]({_NEXT}){{3}}", f"f48.({_NEXT}){{2}}",
)) + ")*$"  # fmt: skip
_ENTITIES = {f"&{name};": html.unescape(f"&{name};") for name in [*name2codepoint, "apos"]} | {
    f"&#{code:0{width}d};": chr(code) for code in range(32, 256) for width in (1, 3)
}
_MOJIBAKE = re.compile(r"[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|Ð[\u0080-\u00bf]|ï»¿")


def as_text(rows: pl.LazyFrame, column: str, null_values: Sequence[str] = ()) -> pl.Expr:
    """A column of any type as trimmed text, with words for missing values as null.

    The values of a list are joined by commas, also if the list is a text such as `a|b` or `["a", "b"]`.
    """
    kind, values = rows.collect_schema()[column], pl.col(column)
    if isinstance(kind, pl.List | pl.Array):
        inner = kind.inner
        plain = not (isinstance(inner, pl.DataType) and inner.is_nested())
        text = values.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True) if plain else _as_json(values, column)
    elif isinstance(kind, pl.Struct):
        text = values.struct.json_encode()
    elif kind == pl.Binary:
        text = from_bytes(values)
    else:
        text = values.cast(pl.String)

    text = text.str.strip_chars()
    return text if not null_values else pl.when(~text.str.to_lowercase().is_in(_words(null_values))).then(text)


def from_bytes(values: pl.Expr) -> pl.Expr:
    """Bytes as text: decoded if they are printable UTF-8, else in hexadecimal, as of a UUID."""
    digits = values.bin.encode("hex")
    is_text = digits.str.contains(_PRINTABLE_UTF8)
    return pl.when(is_text).then(pl.when(is_text).then(values).cast(pl.String)).otherwise(digits)


def readable(text: pl.Expr) -> pl.Expr:
    """Text without control characters, with HTML's entities resolved."""
    return text.str.replace_all(_ESCAPES, "").str.replace_all(_CONTROL, "").str.replace_many(_ENTITIES)


def joined_lists(text: pl.Expr) -> pl.Expr:
    """The values of lists in text, `a|b` or `['a', "b"]`, joined by commas."""
    is_list = text.str.contains(r"""^\[\s*(["'].*["']|[\d\s.,-]*)\s*\]$""")
    inner = text.str.strip_chars("[]").str.replace_all(r"""["']\s*,\s*["']""", ", ").str.strip_chars("\"' ")
    is_bars = text.str.contains(r"^[^|]+(\|[^|]+)+$")
    bars = text.str.replace_all(r"\s*\|\s*", ", ")
    return pl.when(is_list).then(inner).when(is_bars).then(bars).otherwise(text)


def attribute_list(rows: pl.LazyFrame, columns: Sequence[str], null_values: Sequence[str] = ()) -> pl.Expr:
    """The attributes of each row: a list of (name, value), in the order of `columns`, without missing values."""
    if not columns:
        return pl.lit([], ITEMS[c.ATTRIBUTES]).alias(c.ATTRIBUTES)
    values = {name: joined_lists(readable(as_text(rows, name, null_values))) for name in columns}
    pairs = [pl.struct(pl.lit(name).alias("name"), value.alias("value")) for name, value in values.items()]
    filled = pl.element().struct.field("value").str.len_bytes() > 0
    return pl.concat_list(pairs).list.filter(filled).alias(c.ATTRIBUTES)


def worth_showing(rows: pl.LazyFrame, columns: Sequence[str]) -> list[str]:
    """The columns that may be useful to an LLM: no row numbers, URLs, nested structures or bytes.

    The choice depends on names, types and the first 10,000 rows.
    """
    schema = rows.collect_schema()
    plain = [name for name in columns if not _is_nested(schema[name]) and schema[name] != pl.Binary]
    if not plain:
        return []
    sample = rows.select(plain).head(SAMPLE_ROWS).collect()
    return [name for name in plain if not _tells_nothing(sample[name], name)]


def mojibake(texts: Sequence[str | None]) -> tuple[str, str] | None:
    """The first text that is UTF-8 decoded as another encoding, and the correct text; None if there is none."""
    for text in texts:
        if text and _MOJIBAKE.search(text):
            for encoding in ("cp1252", "latin-1"):
                try:
                    return text, text.encode(encoding).decode("utf-8")
                except UnicodeError:
                    continue
    return None


def _words(null_values: Sequence[str]) -> list[str]:
    return [word.lower() for word in null_values]


def _as_json(values: pl.Expr, column: str) -> pl.Expr:
    return pl.struct(values.alias(column)).struct.json_encode()


def _is_nested(kind: pl.DataType) -> bool:
    if isinstance(kind, pl.List | pl.Array):
        return isinstance(kind.inner, pl.DataType) and kind.inner.is_nested()
    return isinstance(kind, pl.Struct)


def _tells_nothing(values: pl.Series, name: str) -> bool:
    values = values.drop_nulls()
    if isinstance(values.dtype, pl.List | pl.Array):
        values = values.explode().drop_nulls()
    if values.is_empty():
        return False
    if _INDEX_NAMES.match(name) and _counts_up(values):
        return True
    if values.dtype != pl.String:
        return False
    is_url, is_object = values.str.contains(_URL), values.str.contains(r"^\s*(\{|\[\s*[{\[])")

    return max(int(is_url.sum()), int(is_object.sum())) > 0.5 * len(values)


def _counts_up(values: pl.Series) -> bool:
    numbers = values.cast(pl.Int64, strict=False)
    steps = numbers.diff().drop_nulls()
    return numbers.null_count() == 0 and bool((steps > 0).all())
