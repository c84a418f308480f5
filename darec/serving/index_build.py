"""Builds an item index in memory or in shards, on the CPU or on a GPU.

The steps are the same in all cases. k-means finds centroids on a sample of the rows, each row is added to the list of
its nearest centroid, and the smallest effort that reaches the target recall against exact search is chosen. With a
FAISS for GPUs and a GPU, the searches in these steps run there for at least `_WORTH_A_GPU` rows; the files are CPU
indexes in both cases.

A sharded index has the centroids and lists of one that is built in memory. Its lists are in a separate file beside
the index, which is mapped when the index is read, so that neither building nor searching needs memory for all vectors.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import faiss
import numpy as np

from darec.serving.index import Floats, Ints, lists_file, one_thread, recall, without_output, write
from darec.serving.index_centroids import clustered
from darec.serving.index_kinds import INDEX_KINDS, IndexKind, InvertedLists
from schemas.release import ExportConfig, IndexReport

_faiss: Any = faiss  # not in its type stubs
_WORTH_A_GPU = 100_000  # rows
_WORTH_TORCH = 2**18  # rows; for fewer, importing PyTorch takes longer than it saves
_MOST_LISTS = 0.25  # maximum share of the lists per query with `auto`; above it, exact search is faster
_BLOCK = 65_536  # number of rows that are added at a time
_EXACT_BLOCK = 2**20  # number of rows that are compared with the queries at a time


class Rows:
    """Vectors that are prepared on demand.

    Args:
        raw: float32 [n, d], which may be mapped from a file.
        prepare: a function that converts any rows [m, d] to their final form.
    """

    def __init__(self, raw: Floats, prepare: Callable[[Floats], Floats]) -> None:
        self._raw, self._prepare = raw, prepare

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return self._raw.shape[0], self._raw.shape[1]

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, chosen: slice | Ints) -> Floats:
        return np.ascontiguousarray(self._prepare(np.asarray(self._raw[chosen])), dtype=np.float32)


def build(
    vectors: Floats | Rows, queries: Floats | Rows, config: ExportConfig, most_lists: float = _MOST_LISTS
) -> tuple[faiss.Index, IndexReport]:
    """An index over finite `vectors` [n, d] and its report; effort and recall are measured on `queries` [q, d].

    `auto` becomes exact search where a query would search more than the share `most_lists` of the inverted lists.
    """
    rows, width = vectors.shape
    name = _kind(rows, config)
    kind, device = INDEX_KINDS.make(name), _Device(rows)

    # The graph of HNSW depends on the number of threads; inverted lists do not.
    with one_thread() if name == "hnsw" else nullcontext():
        index = kind.create(width, rows, config)
        stored = kind.stored(vectors[:])
        if isinstance(kind, InvertedLists):
            _train(index, stored[_sample(rows, index)], device)
            _add(index, stored, 0, device)
        else:
            index.add(stored)
    most = most_lists * index.nlist if config.index == "auto" and name == "ivf" else None
    effort, found = _least_effort(index, kind, vectors, queries, config, device, most)
    if most is not None and effort > most:
        return build(vectors, queries, config.model_copy(update={"index": "flat"}))
    size = faiss.serialize_index(index).nbytes
    return index, IndexReport(kind=name, vectors=rows, effort=effort, recall=found, bytes=size)


def build_file(vectors: Floats | Rows, queries: Floats | Rows, config: ExportConfig, path: Path) -> IndexReport:
    """As `build`, into a file. An IVF index of more than `config.shard_items` vectors is built in shards.

    In addition to `vectors`, this takes memory for one shard and for the sample of k-means, and disk space for two
    copies of the vectors.
    """
    rows = len(vectors)
    if _kind(rows, config) != "ivf" or rows <= config.shard_items:
        index, report = build(vectors, queries, config)
        write(index, path)
        return report

    kind, device = InvertedLists(), _Device(rows)
    longest = max(float(np.square(part).sum(1).max()) for _, part in _parts(vectors, config.shard_items))
    index = kind.create(vectors.shape[1], rows, config)
    _train(index, kind.stored(vectors[_sample(rows, index)], longest), device)

    with TemporaryDirectory(dir=path.parent) as folder:
        shards: list[Path] = []
        for start, part in _parts(vectors, config.shard_items):
            shard = faiss.clone_index(index)
            _add(shard, kind.stored(part, longest), start, device)
            shards.append(Path(folder) / f"{start}")
            write(shard, shards[-1])
        _merge(index, shards, lists_file(path))

    effort, found = _least_effort(index, kind, vectors, queries, config, device)
    write(index, path)
    size = path.stat().st_size + lists_file(path).stat().st_size
    return IndexReport(kind="ivf", vectors=rows, effort=effort, recall=found, bytes=size)


class _Device:
    """Where exact searches run while an index of this number of rows is built."""

    def __init__(self, rows: int) -> None:
        gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
        self._gpu: Any = _faiss.StandardGpuResources() if gpus and rows >= _WORTH_A_GPU else None

    def index(self, index: Any) -> Any:
        """The index, or its copy on the GPU."""
        return index if self._gpu is None else _faiss.index_cpu_to_gpu(self._gpu, 0, index)

    def best(self, queries: Floats, vectors: Floats, k: int) -> Floats:
        """The k largest inner products of each query, best first: [q, k]."""
        if self._gpu is not None:
            return _faiss.knn_gpu(self._gpu, queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0]
        if len(vectors) < _WORTH_TORCH:
            return faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0]
        return _largest(queries, vectors, k)


def _largest(queries: Floats, vectors: Floats, k: int) -> Floats:
    """As `_Device.best`, in a quarter of the time that FAISS takes on a CPU for some hundred queries."""
    import torch

    from darec.evaluation.longest_first import LongestFirst

    nothing = torch.empty(0, dtype=torch.int64)
    return LongestFirst(torch.from_numpy(vectors)).top(torch.from_numpy(queries), k, (nothing, nothing))[1].numpy()


def _kind(rows: int, config: ExportConfig) -> Literal["flat", "ivf", "hnsw"]:
    if config.index != "auto":
        return config.index
    return "flat" if rows <= config.flat_up_to else "ivf"


def _parts(vectors: Floats | Rows, size: int) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(vectors), size):
        yield start, vectors[start : start + size]


def _sample(rows: int, index: Any) -> Ints:
    """The rows that FAISS samples for k-means, in its order."""
    wanted = index.nlist * index.cp.max_points_per_centroid
    if rows <= wanted:
        return np.arange(rows)
    order = np.empty(rows, np.int32)
    _faiss.rand_perm(_faiss.swig_ptr(order), rows, index.cp.seed)
    return order[:wanted].astype(np.int64)


def _train(index: Any, stored: Floats, device: _Device) -> None:
    """Finds the centroids on the rows of `_sample`."""
    index.quantizer.add(clustered(stored, index.nlist, index.cp, device.index))
    index.is_trained = True


def _add(index: Any, stored: Floats, first: int, device: _Device) -> None:
    """Adds rows to the lists of their nearest centroids, numbered from `first` on."""
    centroids = device.index(index.quantizer)
    for start, rows in _parts(stored, _BLOCK):
        lists = np.ascontiguousarray(centroids.search(rows, 1)[1][:, 0])
        ids = np.arange(first + start, first + start + len(rows))
        index.add_core(len(rows), _faiss.swig_ptr(rows), _faiss.swig_ptr(ids), _faiss.swig_ptr(lists))


def _merge(index: Any, shards: list[Path], path: Path) -> None:
    """Merges the memory-mapped lists of all shards into the file `path`, which the empty index then maps."""
    mapped: list[Any] = [faiss.read_index(str(shard), _faiss.IO_FLAG_MMAP) for shard in shards]
    merged = _faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    lists = _faiss.InvertedListsPtrVector()
    for shard in mapped:
        lists.push_back(shard.invlists)
    with without_output():
        index.ntotal = merged.merge_from_multiple(lists.data(), lists.size())
    merged.filename = path.name  # without the folder, because it changes later and equal contents must give equal bytes
    index.replace_invlists(merged, True)
    merged.this.disown()


def _least_effort(
    index: faiss.Index,
    kind: IndexKind,
    vectors: Floats | Rows,
    queries: Floats | Rows,
    config: ExportConfig,
    device: _Device,
    most: float | None = None,
) -> tuple[int, float]:
    """Sets and returns the smallest effort that reaches the target recall, or the first above `most`; the recall."""
    sample = np.ascontiguousarray(queries[_evenly(len(queries), config.recall_queries)])
    limits = _exact_limits(vectors, sample, config.recall_k, device)
    found = 0.0
    for effort in kind.efforts(index, config):
        kind.set_effort(index, effort)
        if most is not None and effort > most:
            break
        found = recall(index, vectors, sample, limits, config.recall_k)
        if found >= config.target_recall:
            break
    return kind.effort(index), found


def _exact_limits(vectors: Floats | Rows, queries: Floats, k: int, device: _Device) -> Floats:
    """The k-th best inner product of each query, [q]."""
    k = min(k, len(vectors))
    best = np.full((len(queries), k), -np.inf, np.float32)
    for _, part in _parts(vectors, _EXACT_BLOCK):
        scores = device.best(queries, np.ascontiguousarray(part), min(k, len(part)))
        best = -np.partition(-np.concatenate([best, scores], axis=1), k - 1, axis=1)[:, :k]
    return best.min(1)


def _evenly(rows: int, wanted: int) -> Ints:
    return np.unique(np.linspace(0, rows - 1, min(rows, wanted)).astype(np.int64))
