"""Classifies answers as usable, or by the cause why they are not."""

import json
import re
import unicodedata

from darec.text.protocol import Answer
from schemas.semantic import Profile

CAUSES = {
    "too_long": "the prompt does not fit the model",
    "cut_off": "the answer does not end within max_tokens",
    "not_json": "the answer does not match the JSON schema",
    "empty": "the answer is empty",
    "loop": "the answer repeats itself",
    "refused": "the model declines",
    "filtered": "a content filter of the server removed the prompt or the answer",
    "rejected": "the server does not accept this row's request",
    "failed": "the engine fails for this row only",
}
"""Why a row has no profile by the LLM."""
NEVER_SAMPLED = ("too_long", "filtered", "rejected", "failed")
"""The causes of rows that the model itself did not answer."""
UNPAID = ("rejected", "failed")
"""The causes of rows without any answer."""

_SHORTEST = 8
_LONGEST = 20_000  # maximum number of characters of an answer that are examined
_LOOP = re.compile(r"(.{1,40}?)\1{3,}", re.DOTALL)  # a phrase that is repeated four times in a row
_THOUGHT = re.compile(r"^.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"^\s*<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^\W*(?:"
    r"(?:i['’]?m|i am|we['’]?re|we are)(?: \w+)? sorry\b.{0,40}\b(?:can['’]?t|can ?not|unable|not able|won['’]?t)"
    r"|(?:i['’]?m|i am) (?:unable|not able) to\b"
    r"|(?:sorry|unfortunately|apologies|my apologies)\b,?(?: but)? (?:i|we)\b"
    r"|i (?:apologi[sz]e\b|must (?:decline|refuse)\b|(?:can['’]?t|can ?not|won['’]?t|will not)"
    r" (?:assist|help|provide|create|generate|write|fulfill?|comply|do|discuss|describe|answer|engage|support)\b)"
    r"|as an? (?:ai|artificial|language)\b"
    r")",
    re.IGNORECASE | re.DOTALL,
)


def read_profile(answer: Answer, max_chars: int) -> tuple[str | None, str]:
    """(profile, "") of a usable answer, (None, cause) of any other; `CAUSES` says what each cause means."""
    if answer.finish_reason not in ("stop", "length"):
        return None, answer.finish_reason

    text = _profile_in(answer.text[:_LONGEST])
    if text is None:
        return None, _cause_of_broken_json(answer)

    text = printable(text, _LONGEST)
    if _REFUSAL.match(text):
        return None, "refused"
    if loops(text):
        return None, "loop"
    text = whole_words(text, max_chars)
    return (text, "") if len(text) >= _SHORTEST else (None, "empty")


def printable(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` characters that is safe for terminals, tables and models.

    Control characters (C0, C1, line and paragraph separators) become spaces; characters that are invisible or change
    the direction of text (zero-width signs, byte order marks, bidirectional overrides, tags), halves of surrogate
    pairs, and private and unassigned characters are left out.
    """
    head = text[: 4 * limit]
    if not (head.isascii() and head.isprintable()):  # most answers are
        head = "".join(map(_visible, head))
    return " ".join(head.split())[:limit]


def _visible(sign: str) -> str:
    if sign.isascii():
        return sign if " " <= sign <= "~" else " "
    category = unicodedata.category(sign)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category.startswith("C") else sign


def loops(text: str) -> bool:
    """Whether the text repeats itself."""
    words = text.lower().split()
    return bool(_LOOP.search(text)) or (len(words) >= 12 and len(set(words)) < 0.4 * len(words))


def whole_words(text: str, max_chars: int) -> str:
    """`text` without the last word if the length limit has truncated it."""
    if len(text) < max_chars:
        return text
    return text[:max_chars].rsplit(" ", 1)[0].rstrip(" ,;:-(")


def _profile_in(text: str) -> str | None:
    """The profile in the first JSON object that matches the schema, ignoring text around it such as reasoning, fences
    or a greeting.
    """
    answer = text if text.lstrip().startswith("{") else _THOUGHT.sub("", text)
    start = -1 if _OPEN_THOUGHT.match(answer) else answer.find("{")
    while start >= 0:
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(answer, start)
            return Profile.model_validate(value).profile
        except (ValueError, RecursionError):  # not JSON, or does not match the schema
            start = answer.find("{", start + 1)

    return None


def _cause_of_broken_json(answer: Answer) -> str:
    text = answer.text[:_LONGEST]
    if not printable(text, _LONGEST):
        return "empty"
    if _REFUSAL.match(_THOUGHT.sub("", text)):
        return "refused"
    if loops(text) or text.rstrip() != text:
        return "loop"
    return "cut_off" if answer.finish_reason == "length" else "not_json"
