"""Telling a usable answer from the ways a small model fails."""

import re

from pydantic import ValidationError

from darec.text.protocol import Answer
from schemas.semantic import Profile

CAUSES = ("too_long", "cut_off", "not_json", "empty", "loop")
_SHORTEST = 8
_LOOP = re.compile(r"(.{1,40}?)\1{3,}", re.DOTALL)  # something said four times in a row


def read_profile(answer: Answer, max_chars: int) -> tuple[str | None, str]:
    """(profile, "") of a usable answer, (None, cause) of any other."""
    if answer.finish_reason == "too_long":
        return None, "too_long"
    try:
        text = " ".join(Profile.model_validate_json(answer.text).profile.split())
    except ValidationError:
        return None, _cause_of_broken_json(answer)
    if loops(text):
        return None, "loop"
    text = whole_words(text, max_chars)
    return (text, "") if len(text) >= _SHORTEST else (None, "empty")


def loops(text: str) -> bool:
    """Whether the text goes round in circles."""
    words = text.lower().split()
    return bool(_LOOP.search(text)) or (len(words) >= 12 and len(set(words)) < 0.4 * len(words))


def whole_words(text: str, max_chars: int) -> str:
    """`text` without the word that the length limit cut in two."""
    if len(text) < max_chars:
        return text
    return text[:max_chars].rsplit(" ", 1)[0].rstrip(" ,;:-(")


def _cause_of_broken_json(answer: Answer) -> str:
    if not answer.text.strip():
        return "empty"
    if loops(answer.text) or answer.text.rstrip() != answer.text:
        return "loop"
    return "cut_off" if answer.finish_reason == "length" else "not_json"
