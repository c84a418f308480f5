"""The speed of the lists of all users: methods for finding the K best items, and complete runs that write files."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.tables import markdown
from darec.common.interactions import ItemLists, Pairs, Representations
from darec.common.progress import Progress
from darec.evaluation.ranking import Ranker
from darec.evaluation.top_items import TopItems
from darec.serving import index
from darec.serving.bundle import Bundle, Contents, vectors_of, write_bundle
from darec.serving.index import Seen
from darec.serving.lists import write_lists
from schemas import columns as c
from schemas.lists import FORMATS, ListsConfig
from schemas.release import ExportConfig

TARGET = 20_000  # users per second and core, at 50,000 items of width 32
_SEEN = 20  # seen items per user
_BLOCK = 512  # number of users at once, for methods without their own block size
_SPREAD = 0.5  # standard deviation of vectors around their cluster centres, as in a trained model


@dataclass(frozen=True)
class Size:
    """The size of the synthetic release."""

    users: int
    items: int
    width: int
    k: int


def measure(size: Size, kind: str, rounds: int, progress: Progress) -> dict[str, float]:
    """Users per CPU second of every method, the best of several interleaved rounds.

    Args:
        size: size of the synthetic release.
        kind: kind of its index: `flat`, `ivf` or `hnsw`.
        rounds: number of rounds.
        progress: shows the number of measurements.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, index.one_thread():
        bundle = _release(Path(folder) / "release", size, kind)
        ways = _ways(bundle, size) | _runs(bundle, size, Path(folder))
        fastest = dict.fromkeys(ways, np.inf)
        progress.start("lists", rounds * len(ways), "turns")
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.process_time()
                way()
                fastest[name] = min(fastest[name], time.process_time() - started)
                progress.advance(1, name)
    return {name: size.users / seconds for name, seconds in fastest.items()}


def table(measured: dict[str, float], size: Size) -> str:
    """The measured rates in Markdown."""
    rows = [[name, f"{rate:,.0f}", f"{rate / TARGET:.2f}"] for name, rate in measured.items()]
    note = (
        f"{size.users:,} users, {size.items:,} items of width {size.width}, lists of {size.k}; {_SEEN} seen items of "
        "each user are left out. One thread; CPU time."
    )
    return markdown(["", "users per second and core", f"over {TARGET:,}"], rows) + "\n" + note + "\n"


def _ways(bundle: Bundle, size: Size) -> dict[str, Callable[[], object]]:
    """The methods for finding each user's K best items, without files."""
    users, items = vectors_of(bundle.users_between(0, size.users)), bundle.all_item_vectors()
    pairs = bundle.seen_between(0, size.users)
    rows, columns = (pairs[name].to_numpy().astype(np.int64) for name in (c.USER_INDEX, c.ITEM_INDEX))
    seen, starts = Seen(rows, columns), np.searchsorted(rows, np.arange(0, size.users + _BLOCK, _BLOCK))

    def blocks(best: Callable[[torch.Tensor], object]) -> Callable[[], None]:
        left, right = torch.tensor(users), torch.tensor(items).T

        def run() -> None:
            for number, block in enumerate(left.split(_BLOCK)):
                scores = block @ right
                inside = slice(starts[number], starts[number + 1])
                scores[rows[inside] - number * _BLOCK, columns[inside]] = -torch.inf
                best(scores)

        return run

    def partition(scores: torch.Tensor) -> None:
        found = np.argpartition(scores.numpy(), size.items - size.k, axis=1)[:, size.items - size.k :]
        np.argsort(np.take_along_axis(scores.numpy(), found, 1), axis=1)

    vectors = Representations.join(torch.tensor(users), torch.tensor(items))
    ranker = Ranker(vectors, ItemLists(Pairs.of(rows, columns), size.users, size.items))
    all_users = torch.arange(size.users)
    left, right, without = torch.tensor(users), torch.tensor(items), (torch.from_numpy(rows), torch.from_numpy(columns))
    exact = {name: TopItems(right, dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    return {
        "product, numpy.argpartition": blocks(partition),
        "product, torch.topk": blocks(lambda scores: scores.topk(size.k)),
        "evaluation": lambda: [ranker.top(block, size.k) for block in all_users.split(_BLOCK)],
        f"index: {bundle.report.item_index.kind}": lambda: index.search(bundle.item_index, users, size.k, seen),
        **{
            f"filtered product, {name}": (lambda way=way: way.top(left, size.k, without)) for name, way in exact.items()
        },
    }


def _runs(bundle: Bundle, size: Size, folder: Path) -> dict[str, Callable[[], object]]:
    """Complete runs: reading, ranking and writing."""
    return {
        f"all lists as {name}": (
            lambda name=name: write_lists(bundle, folder / name, ListsConfig(k=size.k, format=name))
        )
        for name in FORMATS
    }


def _release(folder: Path, size: Size, kind: str) -> Bundle:
    """A release with synthetic vectors."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((max(1, int(size.items**0.5)), size.width))

    def side(rows: int, name: str, prefix: str) -> pl.DataFrame:
        vectors = centres[generator.integers(len(centres), size=rows)]
        vectors = (vectors + _SPREAD * generator.standard_normal(vectors.shape)).astype(np.float32)
        column = pl.Series(c.VECTOR, vectors, dtype=pl.Array(pl.Float32, size.width))
        ids = pl.Series(name, [f"{prefix}{number:08}" for number in range(rows)])
        return pl.DataFrame([ids, pl.Series(c.TRAIN_COUNT, np.full(rows, _SEEN, np.int32)), column])

    items = side(size.items, c.ITEM, "item")
    pairs = {c.USER_INDEX: np.repeat(np.arange(size.users, dtype=np.int32), _SEEN)}
    pairs[c.ITEM_INDEX] = generator.integers(size.items, size=size.users * _SEEN, dtype=np.int32)
    contents = Contents(
        users=side(size.users, c.USER, "user"),
        items=items.insert_column(1, items[c.ITEM].alias(c.TITLE)),
        seen=pl.DataFrame(pairs).unique(),
    )
    config = ExportConfig.model_validate({"index": kind})
    return Bundle(folder, write_bundle(folder, contents, {}, config))
