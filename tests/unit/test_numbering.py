"""Numbering of texts: the same text has the same number in all batches, and different texts have different ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darec.dataset import numbering
from darec.dataset.numbering import Numbering

BATCHES = st.lists(st.lists(st.none() | st.text("ab\u00e9 ", max_size=3), max_size=20), max_size=5)


@given(BATCHES)
def test_numbers_are_those_of_a_dictionary(batches: list[list[str | None]]) -> None:
    """Numbers are in the order in which texts first occur, and null stays null."""
    numbers, known = Numbering(), dict[str, int]()
    for batch in batches:
        found = numbers.numbers(pl.Series("id", batch, pl.String))
        expected = [None if text is None else known.setdefault(text, len(known)) for text in batch]
        assert found.to_list() == expected
        assert (found.name, found.dtype) == ("id", pl.Int32)
    assert numbers.texts.to_list() == list(known)


def test_many_texts_in_many_batches() -> None:
    """The table grows several times; the numbers of earlier texts stay the same."""
    ids = np.random.default_rng(0).integers(0, 200_000, 400_000)
    numbers, texts = Numbering(), pl.Series(ids).cast(pl.String)
    found = pl.concat([numbers.numbers(texts[start : start + 30_000]) for start in range(0, len(ids), 30_000)])
    assert numbers.texts.gather(found).equals(texts)
    assert numbers.texts.n_unique() == len(numbers.texts) == texts.n_unique()

    counted = numbers.distinct(found[:1_000])
    assert dict(counted.select("value", "rows").rows()) == dict(texts[:1_000].value_counts().rows())


def test_texts_with_an_equal_first_hash_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts have one of three first hashes, of neighbouring slots at the end of the table."""

    def poor(texts: pl.Series) -> np.ndarray:
        second = texts.hash(1).to_numpy()
        return np.stack([np.uint64(2**64 - 1) - second % np.uint64(3), second])

    monkeypatch.setattr(numbering, "_hashes", poor)
    numbers, texts = Numbering(), pl.Series([f"id{number % 150}" for number in range(400)])
    found = pl.concat([numbers.numbers(texts[:100]), numbers.numbers(texts[100:])])
    assert numbers.texts.gather(found).equals(texts)
    assert len(numbers.texts) == 150


def test_batches_of_several_threads() -> None:
    """Each thread gets numbers that are right for all."""
    numbers = Numbering()
    batches = [pl.Series([f"id{(number * 7 + seed) % 5_000}" for number in range(4_000)]) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(numbers.numbers, batches))
    texts = numbers.texts
    assert texts.n_unique() == len(texts)
    assert all(texts.gather(part).equals(batch) for part, batch in zip(found, batches, strict=True))
