"""Stable 64-bit hashes of ids, which do not depend on library versions, the machine, or other rows.

Random draws that are keyed by them stay the same while the data grows.
"""

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no character's weight becomes even


def hash_ids(ids: pl.Series) -> NDArray[np.uint64]:
    """The hash of each text of `ids`, shape (n,): a polynomial in its UTF-8 bytes modulo 2^64, then mixed."""
    lengths = ids.str.len_bytes().to_numpy().astype(np.int64)
    data = np.frombuffer("".join(ids.to_list()).encode(), np.uint8)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(data)) - np.repeat(starts, lengths)
    powers = np.multiply.accumulate(np.full(int(lengths.max(initial=0)) + 1, _MULTIPLIER))
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + 1) * powers[position], out=sums[1:])
    return mix(sums[starts + lengths] - sums[starts])


def hash_salted_ids(ids: pl.Series, salt: str) -> NDArray[np.uint64]:
    """BLAKE2b of each text of `ids`, keyed by `salt`, shape (n,). Each distinct id is hashed once.

    Slower than `hash_ids`, which has no salt: it calls into Python for each distinct id. It chooses the items that
    prompts show, so another hash would change all prompts, and with them every profile.
    """
    distinct, key = ids.unique(), salt.encode()
    hashes = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest()) for name in distinct]
    table = pl.DataFrame({"id": distinct, "hash": pl.Series(hashes, dtype=pl.UInt64)})
    return ids.to_frame("id").join(table, on="id", how="left", maintain_order="left")["hash"].to_numpy()


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads every bit of each value over all 64 (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
