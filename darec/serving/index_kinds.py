"""The kinds of FAISS index: creation, search effort, and exact search.

A new kind is one class here, whose name is added to `ExportConfig.index`.
"""

from math import log2, sqrt
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from darec.common.registry import Registry
from schemas.release import ExportConfig

_faiss: Any = faiss  # not in its type stubs
_POINTS_PER_LIST = 39  # number of training points per centroid that FAISS recommends
_MAX_POINTS_PER_LIST = 64  # maximum number of training points per centroid; with 48, fewer of the best 100 are found
_ROUNDS = 6  # iterations of k-means; with 4, fewer of the best 100 are found


class IndexKind:
    """The exact kind, and the base class of the others."""

    faiss_type: ClassVar[type[faiss.Index]] = faiss.IndexFlat
    """The FAISS class, by which the kind of an index from a file is recognised."""
    exact: ClassVar[bool] = True
    """Whether a search compares a query with all items."""

    def create(self, width: int, rows: int, config: ExportConfig) -> Any:
        """An untrained index for `rows` vectors of `width`."""
        return faiss.index_factory(width, "Flat", faiss.METRIC_INNER_PRODUCT)

    def stored(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows [n, d] or [n, d + 1] that the index stores for `vectors` [n, d], all vectors of the index."""
        return vectors

    def max_effort(self, index: Any) -> int:
        """The effort of an exact search; 0 if the kind has no effort."""
        return 0

    def effort(self, index: Any) -> int:
        """The number of lists or candidates that a query searches."""
        return 0

    def set_effort(self, index: Any, effort: int) -> None:
        """Sets the number of lists or candidates that a query searches."""

    def parameters(self, index: Any, selector: Any) -> Any:
        """Search parameters with the index's effort, for the items of `selector` (None: all items)."""
        return None if selector is None else _faiss.SearchParameters(sel=selector)

    def exhaustive(self, index: Any, selector: Any) -> tuple[Any, Any]:
        """The index and the parameters of an exact search over the items of `selector`."""
        return index, self.parameters(index, selector)

    def efforts(self, index: Any, config: ExportConfig) -> list[int]:
        """The efforts to try: the configured one, or powers of two up to the maximum."""
        most = self.max_effort(index)
        if config.effort:
            return [min(config.effort, most)]
        return [*(2**power for power in range(int(log2(most or 1)) + 1) if 2**power < most), most]


INDEX_KINDS: Registry[IndexKind] = Registry("index")
INDEX_KINDS.register("flat")(IndexKind)


@INDEX_KINDS.register("ivf")
class InvertedLists(IndexKind):
    """Inverted lists by distance, over vectors with equal norms due to an additional column (see `index`)."""

    faiss_type = faiss.IndexIVF
    exact = False

    def create(self, width: int, rows: int, config: ExportConfig) -> Any:
        """k-means is seeded and limited to a sample of the rows."""
        lists = config.lists or 2 ** round(log2(4 * sqrt(rows)))
        lists = max(1, min(lists, rows // _POINTS_PER_LIST))
        index: Any = faiss.index_factory(width + 1, f"IVF{lists},Flat", faiss.METRIC_L2)
        index.cp.seed = config.seed
        index.cp.niter, index.cp.max_points_per_centroid = _ROUNDS, _MAX_POINTS_PER_LIST
        # A region may have fewer rows than FAISS recommends; it would print a warning.
        index.cp.min_points_per_centroid = 1
        return index

    def stored(self, vectors: NDArray[np.float32], longest: float | None = None) -> NDArray[np.float32]:
        """`vectors` with a column that gives all rows the largest norm: [n, d] -> [n, d + 1].

        Args:
            vectors: some or all vectors of the index.
            longest: the largest squared norm in the index; None if it is that of `vectors`.
        """
        squares = np.square(vectors).sum(1)
        rest = np.sqrt(np.maximum((squares.max(initial=0) if longest is None else longest) - squares, 0))
        return np.ascontiguousarray(np.column_stack([vectors, rest]), dtype=np.float32)

    def max_effort(self, index: Any) -> int:
        """All lists."""
        return index.nlist

    def effort(self, index: Any) -> int:
        """The number of lists."""
        return index.nprobe

    def set_effort(self, index: Any, effort: int) -> None:
        """Sets the number of lists."""
        index.nprobe = effort

    def parameters(self, index: Any, selector: Any) -> Any:
        """As in the base class."""
        return None if selector is None else _faiss.SearchParametersIVF(nprobe=index.nprobe, sel=selector)

    def exhaustive(self, index: Any, selector: Any) -> tuple[Any, Any]:
        """Searches all lists."""
        parameters = _faiss.SearchParametersIVF(nprobe=index.nlist)
        parameters.sel = selector
        return index, parameters


@INDEX_KINDS.register("hnsw")
class ProximityGraph(IndexKind):
    """A hierarchical navigable small-world graph over the vectors."""

    faiss_type = faiss.IndexHNSW
    exact = False

    def create(self, width: int, rows: int, config: ExportConfig) -> Any:
        """The vectors are stored flat, so that an exact search can use them."""
        index: Any = faiss.index_factory(width, f"HNSW{config.links},Flat", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.build_effort
        return index

    def max_effort(self, index: Any) -> int:
        """All items."""
        return index.ntotal

    def effort(self, index: Any) -> int:
        """The number of candidates."""
        return index.hnsw.efSearch

    def set_effort(self, index: Any, effort: int) -> None:
        """Sets the number of candidates."""
        index.hnsw.efSearch = effort

    def parameters(self, index: Any, selector: Any) -> Any:
        """As in the base class."""
        return None if selector is None else _faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch, sel=selector)

    def exhaustive(self, index: Any, selector: Any) -> tuple[Any, Any]:
        """Searches the flat storage."""
        return faiss.downcast_index(index.storage), super().parameters(index, selector)


def kind_of(index: faiss.Index) -> IndexKind:
    """The kind of an index, including one that was read from a file."""
    kinds = [INDEX_KINDS.make(name) for name in INDEX_KINDS]
    return next(kind for kind in kinds if isinstance(index, kind.faiss_type))
