"""Centroids of inverted lists.

There are as many lists as the root of the number of rows, so k-means that compares every row with all centroids takes n
to the power of 1.5. From `_MANY` lists on, the rows are first divided into regions, as many as the root of the number
of lists, and k-means runs in each region on its own. With the vectors of 400,000 items this takes a ninth of the time,
and queries need as many lists as before.
"""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Place = Callable[[Any], Any]
"""Moves a FAISS index to the device that searches it."""

_MANY = 1024  # lists
_ROWS_PER_REGION = 256  # maximum number of rows per region for k-means of the regions


def clustered(rows: Floats, lists: int, settings: Any, place: Place) -> Floats:
    """The centroids [lists, d] of the rows [n, d], by k-means with FAISS's clustering parameters `settings`."""
    if lists < _MANY:
        return _kmeans(rows, lists, settings, place)

    coarse = faiss.ClusteringParameters()
    coarse.seed, coarse.niter, coarse.max_points_per_centroid = settings.seed, settings.niter, _ROWS_PER_REGION
    centres: Any = faiss.IndexFlatL2(rows.shape[1])
    centres.add(_kmeans(rows, int(lists**0.5), coarse, place))
    of_row = place(centres).search(rows, 1)[1][:, 0]
    sizes = np.bincount(of_row)
    ends = sizes.cumsum()
    groups = np.split(np.argsort(of_row, kind="stable"), ends[:-1])

    # Each region gets lists in proportion to its rows.
    shares = np.diff(np.round(ends * (lists / len(rows))).astype(np.int64), prepend=0).tolist()
    found = (_kmeans(rows[group], share, settings, place) for group, share in zip(groups, shares, strict=True) if share)
    return np.concatenate(list(found))


def _kmeans(rows: Floats, count: int, settings: Any, place: Place) -> Floats:
    clustering: Any = faiss.Clustering(rows.shape[1], count, settings)
    clustering.train(np.ascontiguousarray(rows), place(faiss.IndexFlatL2(rows.shape[1])))
    return faiss.vector_to_array(clustering.centroids).reshape(count, -1)
