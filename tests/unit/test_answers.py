"""Reading answers: what can be unwrapped is, what cannot has its name, and nothing invisible gets into a profile."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darec.text.answers import CAUSES, printable, read_profile
from darec.text.protocol import Answer

GOOD = "a tense, scary shark hunt"
JSON = json.dumps({"profile": GOOD})


def read(text: str, reason: str = "stop", max_chars: int = 90) -> tuple[str | None, str]:
    return read_profile(Answer("k", text, reason, 1, 1), max_chars)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"  {JSON}\n",
        f"```json\n{JSON}\n```",
        f"```\n{JSON}```",
        f"Sure! Here is the profile:\n\n```json\n{JSON}\n```\nLet me know if you want another.",
        f"Here you are: {JSON}",
        f"<think>A film of a shark. Not {{}}.</think>{JSON}",
        f'<think>A draft: {{"profile":"a first try at it"}}</think>\n{JSON}',
        f"a film of a shark, so ...\n</think>\n\n{JSON}",
        f"<Thinking>hm</Thinking>```json{JSON}```",
        f'{{"note": 1}} {JSON}',
        f'[{JSON}, {{"profile":"and another one"}}]',
        '{"profile": "a tense,\nscary\tshark hunt"}',
        '{\n  "profile":\n    "a tense, scary shark hunt"\n}\n',
    ],
)
def test_a_profile_is_found_in_its_wrapping(text: str) -> None:
    assert read(text) == (GOOD, "")


@pytest.mark.parametrize(
    "words",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m really sorry, I cannot help with that.",
        "I am sorry. As an AI, I am unable to do it.",
        "Sorry, I can't do that.",
        "Unfortunately, I cannot write about this film.",
        "I cannot create content of that kind.",
        "I can't help with that.",
        "I must decline.",
        "I'm unable to describe this item.",
        "As an AI language model, I have no opinions.",
        "I apologize, but this is against my guidelines.",
    ],
)
def test_a_refusal_is_called_one_in_words_and_in_json(words: str) -> None:
    assert read(words) == (None, "refused")
    assert read(json.dumps({"profile": words})) == (None, "refused")
    assert read(f"<think>They want it.</think>\n{words}") == (None, "refused")


@pytest.mark.parametrize(
    "profile",
    [
        "I'm Sorry, I Love You: a sad Korean drama, for fans of tears",
        "sorry, wrong number: a tense film noir of a woman in bed",
        "can't help falling in love, a warm comedy",
        "a tale of an AI that is sorry for what it cannot do",
        "an artificial mind that dreams; for fans of science fiction",
    ],
)
def test_a_profile_that_sounds_like_a_refusal_is_none(profile: str) -> None:
    assert read(json.dumps({"profile": profile})) == (profile, "")


@pytest.mark.parametrize(
    ("text", "reason", "cause"),
    [
        ('{"profile": null}', "stop", "not_json"),
        ('{"profile": ["a tense shark hunt"]}', "stop", "not_json"),
        ('{"profile": 12345678}', "stop", "not_json"),
        ('"a tense shark hunt"', "stop", "not_json"),
        ("<think>many thoughts", "length", "cut_off"),
        ('<think>{"profile":"a draft of the thing"}', "length", "cut_off"),
        ("```json\n", "stop", "loop"),
        ("{" * 5000, "length", "loop"),
        ('{"a":' * 3000, "stop", "loop"),
        ("\u200b\u200b \ufeff", "stop", "empty"),
        ('{"profile": "\\u200b\\u202e\\ud83d\\u0007"}', "stop", "empty"),
        ("what the server said", "failed", "failed"),
        ("what the server said", "rejected", "rejected"),
        (JSON, "filtered", "filtered"),
    ],
)
def test_what_cannot_be_used_has_its_name(text: str, reason: str, cause: str) -> None:
    assert read(text, reason) == (None, cause)
    assert cause in CAUSES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mred\x07 \x00one\x9b", "a [31mred one"),
        ("safe\u202egnp.exe\u2066 name", "safegnp.exe name"),
        ("zero\u200bwidth \ufeffmarks\u2060", "zerowidth marks"),
        ("half \ud83d a pair \udc00", "half a pair"),
        ("two\u2028lines\u2029 and\x85more\r\n", "two lines and more"),
        ("tags\U000e0041\U000e007f and private \ue000 use", "tags and private use"),
        ("soft\u00adhyphen, no\u00a0break", "softhyphen, no break"),
        ("Amélie 天空 🦈 naïve ﷺ", "Amélie 天空 🦈 naïve ﷺ"),
    ],
)
def test_invisible_signs_are_left_out(text: str, expected: str) -> None:
    assert printable(text, 90) == expected
    assert read(json.dumps({"profile": text}))[0] == expected
    assert read(json.dumps({"profile": text}, ensure_ascii=False))[0] == expected


@given(st.text(max_size=200) | st.text('{}[]":,\\ profile<think>/`\ud83d\u202e\x1b\n', max_size=200))
def test_any_answer_is_read_and_no_profile_has_an_invisible_sign(text: str) -> None:
    for answer in (text, json.dumps({"profile": text}), f'{{"profile":"{text}"}}', f"```json\n{text}\n```"):
        profile, cause = read(answer, max_chars=60)
        assert (profile is None) == (cause in CAUSES)
        if profile is not None:
            assert 8 <= len(profile) <= 60 and profile == profile.strip()
            assert not [sign for sign in profile if unicodedata.category(sign)[0] == "C" or sign in "\u2028\u2029"]
            profile.encode()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "part", ["{", '{"profile":"', "[", '{"profile":{', "</think>", "<think>", "a ", "\\", '\'{"a":"\'']
)
def test_an_answer_of_megabytes_is_read_in_no_time(part: str) -> None:
    assert read(part * (2**22 // len(part)), "length")[0] is None
