"""YAML as recipes use it: typed words, no duplicates, bounded depth and size."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darec.common.strict_yaml import StrictYAMLError, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: {b: [1, -2, 0], c: ~}", {"a": {"b": [1, -2, 0], "c": None}}),
        ("[true, False, TRUE]", [True, False, True]),
        ("[1e-3, 4.01e-3, 1., .5, -2.5E+3]", [1e-3, 4.01e-3, 1.0, 0.5, -2500.0]),
        ("[2024-01-31, 12:30:00 today, '010', \"yes\", 1a]", ["2024-01-31", "12:30:00 today", "010", "yes", "1a"]),
        ("{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: {b: {c: &y {<<: &x {d: 1, e: 2}, e: 3}}}\nf: {<<: *y, d: 4}",
         {"a": {"b": {"c": {"d": 1, "e": 3}}}, "f": {"d": 4, "e": 3}}),
        ("[&x {a: 1}, &y {a: 2, b: 3}, {<<: [*x, *y], c: 4}]", [{"a": 1}, {"a": 2, "b": 3}, {"a": 1, "b": 3, "c": 4}]),
    ],
)  # fmt: skip
def test_words_are_what_yaml_1_2_says(text, value):
    assert parse(text) == value
    assert [type(x) for x in value] == [type(x) for x in parse(text)] if isinstance(value, list) else True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", ["line 5", "'c' is given twice, in lines 3 and 5"]),
        ("train: {}\nsplit: {}\ntrain: {}", ["'train' is given twice, in lines 1 and 3"]),
        *((f"a: 1\nb: {word}", ["line 2", word, "leading zeros"]) for word in ("010", "-017", "0x1F", "0b1", "1_000")),
        *((f"a: 1\nb: {word}", ["line 2", word, "leading zeros"]) for word in ("1:30", "1:30.5", "08.5")),
        *((f"a: 1\nb: {word}", ["line 2", word, "true or false"]) for word in ("yes", "No", "on", "OFF")),
        ("a: !!int '010'", ["line 1", "the tag tag:yaml.org,2002:int is not allowed"]),
        ("a: !!python/object/apply:os.system ['true']", ["line 1", "not allowed"]),
        ("1: a", ["the key '1' is not text"]),
        ("null: a", ["the key 'null' is not text"]),
        ("[a]: b", ["the key of a list or table is not text"]),
        ("a: {<<: 3}", ["line 1", "<< needs a table"]),
        ("a: &x [*x]", ["line 1", "aliases"]),
        ("a: [", ["line 1"]),
        ("a: b\n\tc: d", ["line 2"]),
        ("--- 1\n--- 2", ["line 2"]),
        ("a: *b", ["line 1", "alias"]),
        ("a: \x1b[31m", ["special characters are not allowed"]),
        ("a: " + "9" * 5000, ["digits"]),
    ],
)  # fmt: skip
def test_what_readers_disagree_about_is_refused(text, words):
    with pytest.raises(StrictYAMLError) as caught:
        parse(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


LAUGHS = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))])


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 3000 + "]" * 3000,
        "{a: " * 3000,
        "- " * 3000,
        LAUGHS,
        "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]),
        f"a: &a [{'x, ' * 1000}]\nb: [{'*a, ' * 1000}]",
    ],
    ids=["lists", "tables", "block lists", "billion laughs", "a chain of aliases", "many aliases"],
)
def test_what_never_ends_is_refused_at_once(text):
    began = time.process_time()
    with pytest.raises(StrictYAMLError, match="deep|too many|aliases"):
        parse(text)
    assert time.process_time() - began < 5


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_what_is_dumped_is_read_back(tree):
    assert parse(dump(tree)) == tree


@pytest.mark.parametrize("text", ["010", "12e4567", "yes", "1:30", "1e3", "2024-01-31", "<<", "~", "0x1F", "1_0", "="])
def test_texts_that_look_like_something_else_are_quoted(text):
    assert parse(dump({text: text})) == {text: text}
