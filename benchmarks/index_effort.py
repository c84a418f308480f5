"""The number of lists of an IVF index that a query needs on trained vectors, and the cost of building the index.

    darec bench scale --size 5M --until train --set "train.backbone={name: mf}"
    python -m benchmarks.index_effort data/bench/scale/store-5000000
    python -m benchmarks.index_effort --random 1000000 --dim 64 --lists 8

Prints the table of docs/scaling.md: recall of the exact best 20 and CPU time per query by the number of lists. The
second command needs no model: its vectors are random ones around 10,000 centres.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import markdown
from darec.artifacts.files import EMBEDDINGS
from darec.artifacts.formats import Vectors
from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.index import nothing_seen, search
from darec.serving.index_build import build
from schemas.release import ExportConfig

_QUERIES = 2000
_CENTRES = 10_000


def main() -> None:
    """Builds the index once for each number of lists per query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, nargs="?", help="store with a trained model")
    parser.add_argument("--random", type=int, help="number of random vectors, instead of those of a model")
    parser.add_argument("--dim", type=int, default=64, help="width of random vectors")
    parser.add_argument("--lists", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="lists per query")
    options = parser.parse_args()

    vectors = _random(options.random, options.dim) if options.random else _trained(options.store)
    users = vectors.user[:: max(1, len(vectors.user) // _QUERIES)]

    rows, n_lists = [], 0
    for lists in options.lists:
        config = ExportConfig(index="ivf", effort=lists, recall_queries=_QUERIES)
        started = time.process_time()
        index: Any
        index, report = build(vectors.item, users, config)
        built, started = time.process_time() - started, time.process_time()
        n_lists = index.nlist
        search(index, users, 20, nothing_seen())
        each = (time.process_time() - started) / len(users)
        rows.append([str(lists), f"{report.recall:.3f}", f"{1000 * each:.2f}", f"{built:.1f}"])

    items, width = np.shape(vectors.item)
    print(f"{items:,} items of width {width} in {n_lists:,} lists, {len(users):,} users\n")
    print(markdown(["lists per query", "recall@20", "CPU ms per query", "CPU s to build and measure"], rows))


def _trained(store: Path | None) -> Vectors:
    trained = Store(store).latest("train") if store else None
    if trained is None:
        raise UserError("there is no trained model", where=str(store), hint="run `darec bench scale`")
    return EMBEDDINGS.format.read(trained.path / EMBEDDINGS.name)


def _random(rows: int, width: int) -> Vectors:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((_CENTRES, width))

    def around(count: int) -> NDArray[np.float32]:
        noise = 0.5 * rng.standard_normal((count, width))
        return (centres[rng.integers(_CENTRES, size=count)] + noise).astype(np.float32)

    return Vectors(around(_QUERIES), around(rows))


if __name__ == "__main__":
    main()
