"""FAISS item indexes: writing, memory-mapping, searching without seen items, and recall against exact search.

The row number in the index is the item index in the vocabulary, so no id map is stored. Every kind stores the full
float32 vectors and finds those with the largest inner product, which is the cosine for L2-normalised vectors. Building
is single-threaded and seeded: equal input gives equal bytes. Files are CPU indexes, readable by any FAISS.

Inverted lists store each vector x with an additional column sqrt(M^2 - |x|^2), where M is the largest norm, and a query
has 0 there. All rows then have norm M, |q - x|^2 = |q|^2 + M^2 - 2 q.x, and the nearest row has the largest inner
product (Bachrach et al., RecSys 2014). Lists by distance are compact, unlike lists by inner product of vectors with
different norms, so a query needs a fraction of the lists. Files of version 0.1 have inner-product lists, which are also
supported.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from darec.common.errors import DarecError
from darec.serving.index_kinds import kind_of

if TYPE_CHECKING:
    from darec.serving.index_build import Rows

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEW_LISTS = 1 / 8
"""Maximum share of the lists per query; above it, the product of many queries with all items is faster."""

_faiss: Any = faiss  # not in its type stubs
_NEARLY_ALL = 0.95  # an approximate search is used only if at least this share of the items is allowed
_CHUNK = 1024  # number of queries per search


@dataclass(frozen=True)
class Seen:
    """Pairs to exclude from the results: query number `rows[j]` must not get item `items[j]`. Both int64 [m]."""

    rows: Ints
    items: Ints

    def counts(self, queries: int) -> Ints:
        """Number of pairs of each query, [queries]."""
        return np.bincount(self.rows, minlength=queries)

    def of(self, chosen: Ints) -> "Seen":
        """The pairs of the `chosen` queries, renumbered to their positions in `chosen`."""
        place = np.full(int(max(self.rows.max(initial=-1), chosen.max(initial=-1))) + 1, -1)
        place[chosen] = np.arange(len(chosen))
        rows = place[self.rows]
        return Seen(rows[rows >= 0], self.items[rows >= 0])


def nothing_seen() -> Seen:
    """Excludes no pairs."""
    return Seen(np.empty(0, np.int64), np.empty(0, np.int64))


def normalised(vectors: Floats) -> Floats:
    """`vectors` [n, d] scaled to length one; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def write(index: faiss.Index, path: Path) -> None:
    """Writes FAISS's own format."""
    faiss.write_index(index, str(path))


def lists_file(path: Path) -> Path:
    """The file with the inverted lists of the index in `path`, if it was built in shards."""
    return path.with_suffix(".ivfdata")


def read(path: Path) -> faiss.Index:
    """Memory-maps an index file: vectors stay on disk until they are accessed. Raises DarecError for any other file."""
    lists = lists_file(path)
    try:
        if not lists.is_file():
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        with without_output():
            index: Any = faiss.read_index(str(path), _faiss.IO_FLAG_READ_ONLY | _faiss.IO_FLAG_ONDISK_SAME_DIR)
        if _faiss.downcast_InvertedLists(index.invlists).totsize != lists.stat().st_size:
            raise RuntimeError(f"{lists.name} has another size")
        return index
    except RuntimeError as error:
        raise DarecError(
            "the index cannot be read", where=str(path), hint="export and publish again, or roll back"
        ) from error


def search(
    index: faiss.Index, queries: Floats, k: int, seen: Seen, allowed: NDArray[np.bool_] | None = None
) -> tuple[Ints, Floats]:
    """The `k` unseen and allowed items with the largest inner product for each query, best first.

    The allowed items are the same for all queries, and FAISS searches only these. The seen items differ by query, for
    which FAISS has no filter: k + |seen| items are retrieved and the seen ones dropped, so recall is not reduced. A
    query with too few results from an approximate index is searched again exactly.

    Args:
        index: From `build` or `read`.
        queries: [b, d] float32.
        k: Length of a result, at least 1.
        seen: Pairs to exclude.
        allowed: Whether an item may be found, [items]; None if all may.

    Returns:
        Item indices [b, k], -1 if no unseen item is left, and scores [b, k], -inf there.
    """
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    filtered = _Filter.of(allowed, index)
    seen = seen if allowed is None else Seen(seen.rows[allowed[seen.items]], seen.items[allowed[seen.items]])
    counts = seen.counts(len(queries))
    order = np.argsort(counts, kind="stable")  # queries of a chunk need about the same number of items
    for start in range(0, len(queries), _CHUNK):
        rows = order[start : start + _CHUNK]
        ids[rows], scores[rows] = _search_chunk(index, queries[rows], k, seen.of(rows), filtered)
    return ids, scores


def recall(index: faiss.Index, vectors: "Floats | Rows", queries: Floats, limits: Floats, k: int) -> float:
    """Mean share of the exact top `k` found; `limits` [q] is the exact k-th score of each query.

    Scores are recomputed from `vectors` by the returned number, so that an index that does not match the vocabulary is
    detected; equal scores count as found, regardless of which tied item is returned.
    """
    k = min(k, len(vectors))
    _, ids = _approximate(index, queries, k)
    found = vectors[np.maximum(ids, 0).ravel()].reshape(*ids.shape, -1)
    scores = np.einsum("qd,qkd->qk", queries, found)
    slack = 1e-5 * np.linalg.norm(queries, axis=1) * np.linalg.norm(found, axis=2).max(1)  # rounding of inner products
    return float(((ids >= 0) & (scores >= (limits - slack)[:, None])).mean())


@dataclass(frozen=True)
class _Filter:
    """The items that a search considers."""

    items: int
    """Number of allowed items."""
    selector: Any = None
    exact: bool = False
    """Whether all allowed items are compared with a query, for any kind of index.

    An approximate index searches near the query. If the allowed items are elsewhere, it finds few of the best ones:
    with a tenth of the items allowed, the recall of IVF decreases from 0.99 to between 0.3 and 0.98.
    """

    @classmethod
    def of(cls, allowed: NDArray[np.bool_] | None, index: faiss.Index) -> "_Filter":
        if allowed is None:
            return cls(index.ntotal)
        selector = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        return cls(int(allowed.sum()), selector, is_exact(index, allowed))


def is_exact(index: faiss.Index, allowed: NDArray[np.bool_] | None) -> bool:
    """Whether `search` compares a query with all items that are allowed."""
    few = allowed is not None and allowed.sum() < _NEARLY_ALL * index.ntotal
    return few or kind_of(index).exact


def product_is_faster(index: faiss.Index) -> bool:
    """Whether the product of many queries with all items is faster than searching the index."""
    kind = kind_of(index)
    return kind.exact or kind.effort(index) > FEW_LISTS * kind.max_effort(index)


def _search_chunk(index: faiss.Index, queries: Floats, k: int, seen: Seen, filtered: _Filter) -> tuple[Ints, Floats]:
    counts = seen.counts(len(queries))
    fetch = min(k + int(counts.max(initial=0)), filtered.items)
    if fetch == 0:
        return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    find = _exact if filtered.exact else _approximate
    ids, scores = without_seen(*find(index, queries, fetch, filtered.selector), k, seen)
    short = np.flatnonzero((ids >= 0).sum(1) < np.minimum(k, filtered.items - counts))
    if len(short) and not filtered.exact:
        ids[short], scores[short] = without_seen(
            *_exact(index, queries[short], fetch, filtered.selector), k, seen.of(short)
        )
    return ids, scores


def without_seen(scores: Floats, ids: Ints, k: int, seen: Seen) -> tuple[Ints, Floats]:
    """The first `k` items of each row that are not seen, moved to the left."""
    width = int(ids.max(initial=0)) + 1
    in_range = seen.items < width
    known = np.sort(seen.rows[in_range] * width + seen.items[in_range])
    keep = ids >= 0
    if len(known):
        codes = np.arange(len(ids))[:, None] * width + ids
        keep &= known[np.searchsorted(known, codes).clip(max=len(known) - 1)] != codes
    return left_aligned(ids, scores, keep, k)


def left_aligned(ids: Ints, scores: Floats, keep: NDArray[np.bool_], k: int) -> tuple[Ints, Floats]:
    """The first `k` kept columns of each row, moved to the left, followed by -1 and -inf."""
    place = np.cumsum(keep, axis=1) - 1
    row, column = np.nonzero(keep & (place < k))
    best_ids = np.full((len(ids), k), -1, np.int64)
    best_scores = np.full((len(ids), k), -np.inf, np.float32)
    best_ids[row, place[row, column]] = ids[row, column]
    best_scores[row, place[row, column]] = scores[row, column]
    return best_ids, best_scores


def _approximate(index: Any, queries: Floats, k: int, selector: Any = None) -> tuple[Floats, Ints]:
    return _found(index, queries, k, kind_of(index).parameters(index, selector))


def _exact(index: Any, queries: Floats, k: int, selector: Any) -> tuple[Floats, Ints]:
    searched, parameters = kind_of(index).exhaustive(index, selector)
    return _found(searched, queries, k, parameters)


def _found(index: Any, queries: Floats, k: int, parameters: Any) -> tuple[Floats, Ints]:
    """Inner products, best first, and item numbers: [q, k] each, -1 if an index finds fewer."""
    queries = np.ascontiguousarray(queries)
    if index.metric_type != faiss.METRIC_L2:
        return index.search(queries, k, params=parameters)

    # Queries get the norm of the rows: next to it, the distances of a much shorter query would differ by rounding only.
    norm = _squared_length(index) ** 0.5 or 1.0
    factors = norm / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30 * norm)
    distances, ids = index.search(np.pad(queries * factors, ((0, 0), (0, 1))), k, params=parameters)
    scores = (np.square(queries * factors).sum(1, keepdims=True) + norm**2 - distances) / 2 / factors
    return np.where(ids >= 0, scores, -np.inf).astype(np.float32), ids


def _squared_length(index: Any) -> float:
    """The squared norm of the rows of an inverted-list index, which all have the same norm."""
    lists = index.invlists
    filled = next(number for number in range(index.nlist) if lists.list_size(number))
    codes = faiss.rev_swig_ptr(lists.get_codes(filled), index.code_size)
    return float(np.square(codes.view(np.float32)).sum())


@contextmanager
def one_thread() -> Iterator[None]:
    """HNSW insertion and k-means depend on the number of threads; with one thread the bytes are reproducible."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def without_output() -> Iterator[None]:
    """Suppresses the names and sizes of list files that FAISS prints, which would appear in tables and JSON."""
    sys.stdout.flush()
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(1), "wb") as before:  # noqa: PTH123 - a descriptor
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(before.fileno(), 1)
