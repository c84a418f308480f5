"""Text from outside that is fit to be printed."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darec.common.errors import UserError
from darec.common.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Amélie 天空 👩\u200d🚀 فارسی\u200cزبان", "Amélie 天空 👩\u200d🚀 فارسی\u200cزبان"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x1b[0m", "\\u001b[31mred\\u001b[0m"),
        ("\x1b]8;;http://x\x07link", "\\u001b]8;;http://x\\u0007link"),
        ("\x1b]52;c;eA==\x1b\\", "\\u001b]52;c;eA==\\u001b\\"),
        ("\x9b31m", "\\u009b31m"),
        ("good\rbad\b\x7f", "good\\u000dbad\\u0008\\u007f"),
        ("a\u202eb\u2066c\u2028e\u200bf\ufeff", "a\\u202eb\\u2066c\\u2028e\\u200bf\\ufeff"),
        ("שלום\u200f! Donau\u00addampf", "שלום\u200f! Donau\u00addampf"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\udb40\\udc41"),
    ],
)
def test_what_a_terminal_obeys_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@given(st.text(st.characters()))
def test_nothing_harmful_is_left_and_json_stays_what_it_was(text: str) -> None:
    shown = printable(text)
    assert not {sign for sign in shown if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")} - set("\n\t")
    assert json.loads(printable(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}


def test_an_error_is_printable_wherever_it_is_shown() -> None:
    error = UserError("no title '\x1b[2J'", where="a\u202eb", hint="\x9b1m")
    assert str(error) == "no title '\\u001b[2J' [a\\u202eb] -> \\u009b1m"
    assert "\x1b" not in repr(error)
