"""Escapes untrusted text for printing: a title or an id may contain control codes of a terminal."""

import unicodedata

_KEPT = "\n\t\u00ad\u061c\u200c\u200d\u200e\u200f"
"""Besides line feed and tab: soft hyphen, joiners and direction marks, which are parts of words and of emoji."""


class _Escapes(dict[int, str]):
    """Table for `str.translate`: maps a character to its printed form, filled on demand."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        harmful = unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") and sign not in _KEPT
        units = sign.encode("utf-16-be", "surrogatepass")
        pairs = (units[start : start + 2].hex() for start in range(0, len(units), 2))
        self[code] = "".join(f"\\u{pair}" for pair in pairs) if harmful else sign
        return self[code]


_ESCAPES = _Escapes()


def printable(text: str) -> str:
    r"""`text` with every control character as a visible escape, as `\u001b`; line feeds and tabs stay.

    Control characters are those of ASCII and Latin-1 (escape sequences, bell, carriage return, backspace), line and
    paragraph separators, lone surrogates, invisible characters, and those that override the direction of text. In a
    JSON string such an escape means the character itself, so JSON keeps its meaning.
    """
    return text if text.isprintable() else text.translate(_ESCAPES)
