"""Numbers texts in the order in which they first occur, for columns of many rows and many distinct texts.

A text is recognised by two 64-bit hashes. Each batch of rows is looked up at once, so that the processor waits for many
entries of the table at the same time: with a million texts this takes a third of the time of a hash map that is asked
row by row, of which each entry is somewhere else in memory.
"""

from threading import Lock

import numpy as np
import polars as pl
from numpy.typing import NDArray

_EMPTY = -1
_SLOTS_PER_TEXT = 3  # minimum; with fewer, more texts are not in their first slot


class Numbering:
    """Assigns a number from 0 on to each distinct text. Batches may come from several threads."""

    def __init__(self) -> None:
        self._texts: list[pl.Series] = []
        self._count = 0
        self._hashes = np.zeros((2, 1), np.uint64)  # of each text; there is room for more
        self._slots = np.full(2**16, _EMPTY, np.int32)  # open addressing: the number of a text, at its first hash
        self._lock = Lock()

    def of(self, texts: pl.Expr) -> pl.Expr:
        """`numbers` as a step of a query."""
        return texts.map_batches(self.numbers, return_dtype=pl.Int32, is_elementwise=True)

    def numbers(self, texts: pl.Series) -> pl.Series:
        """The number of each text of a batch, Int32, null for null."""
        hashes = _hashes(texts)
        present = texts.is_not_null().to_numpy() if texts.null_count() else np.ones(len(texts), np.bool_)
        with self._lock:
            found = self._look_up(hashes)
            while len(missing := np.flatnonzero((found == _EMPTY) & present)):
                _, first = np.unique(hashes[0, missing], return_index=True)
                new = missing[np.sort(first)]
                self._add(texts.gather(new), hashes[:, new])
                found[missing] = self._look_up(hashes[:, missing])
        numbers = pl.Series(texts.name, found)
        return numbers if present.all() else numbers.set(~pl.Series(present), None)

    def distinct(self, numbers: pl.Series) -> pl.DataFrame:
        """The texts that occur among `numbers`: `code`, `value` and `rows`, the number of rows; nulls are left out."""
        codes = numbers.drop_nulls().to_numpy()
        counts = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
        present = np.flatnonzero(counts)
        return pl.DataFrame({"code": present, "value": self.texts.gather(present), "rows": counts[present]})

    @property
    def texts(self) -> pl.Series:
        """The text of each number."""
        return pl.concat(self._texts) if self._texts else pl.Series([], dtype=pl.String)

    def _look_up(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The number of each pair of hashes [2, n], -1 for new ones."""
        found = self._slots[slots := self._first_slots(hashes[0])]
        first, second = self._hashes
        wrong = np.flatnonzero((found != _EMPTY) & ((first[found] != hashes[0]) | (second[found] != hashes[1])))
        slots = slots[wrong]
        while len(wrong):
            slots = (slots + 1) & (len(self._slots) - 1)
            found[wrong] = there = self._slots[slots]
            other = (there != _EMPTY) & ((first[there] != hashes[0, wrong]) | (second[there] != hashes[1, wrong]))
            wrong, slots = wrong[other], slots[other]
        return found

    def _add(self, texts: pl.Series, hashes: NDArray[np.uint64]) -> None:
        """Adds texts with different first hashes."""
        start, self._count = self._count, self._count + len(texts)
        self._texts.append(texts)
        if self._count > self._hashes.shape[1]:
            self._hashes = np.pad(self._hashes, ((0, 0), (0, 2 * self._count - self._hashes.shape[1])))
        self._hashes[:, start : self._count] = hashes
        if self._count * _SLOTS_PER_TEXT > len(self._slots):
            size = 2 ** int(self._count * 2 * _SLOTS_PER_TEXT).bit_length()
            self._slots, start = np.full(size, _EMPTY, np.int32), 0

        numbers = np.arange(start, self._count, dtype=np.int32)
        slots = self._first_slots(self._hashes[0, start : self._count])
        while len(numbers):
            free = self._slots[slots] == _EMPTY
            self._slots[slots[free]] = numbers[free]
            left = self._slots[slots] != numbers
            numbers, slots = numbers[left], (slots[left] + 1) & (len(self._slots) - 1)

    def _first_slots(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        bits = len(self._slots).bit_length() - 1
        return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _hashes(texts: pl.Series) -> NDArray[np.uint64]:
    return np.stack([texts.hash(seed).to_numpy() for seed in (0, 1)])
