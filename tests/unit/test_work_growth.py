"""How the work of each stage grows with the data: what is counted does not depend on the machine or on its load.

`darec bench scale` measures seconds and memory of millions of interactions. Here the same synthetic logs are small, the
sizes from which stages work in parts are lowered with them, and rows, bytes, numbers and operator calls are counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.scale import recipe_for
from darec.artifacts.tables import write_table
from darec.common import ranges
from darec.common.interactions import Interactions, Pairs, Representations
from darec.dataset.clean import clean
from darec.dataset.graph import edge_list
from darec.dataset.readers import read_source
from darec.dataset.split import split_interactions
from darec.evaluation import longest_first, top_items
from darec.evaluation.ranking import MakeRanker, Ranker
from darec.evaluation.report import report
from darec.serving import candidates
from darec.serving.candidates import LargeRanker
from darec.training.trainer import Trainer
from schemas import steps
from schemas.tables import INTERACTIONS
from schemas.training import EvaluateConfig, TrainConfig

SMALL, LARGE = 20_000, 80_000
MOST = 1.1
MOST_BYTES = 1.2  # few pages compress in another way than many


def exponent(counts: tuple[float, float], sizes: tuple[float, float]) -> float:
    """The power of the size by which a count grows: 1 is linear."""
    return log(counts[1] / counts[0]) / log(sizes[1] / sizes[0])


# ---------------------------------------------------------------- tables: rows that Polars is given, bytes of files


@contextmanager
def rows_handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Sums of the heights of the tables and columns whose methods are called, or that queries give."""
    counted = Counter[str]()

    def noted(owner: type, name: str, size) -> None:
        plain = getattr(owner, name)

        def method(self, *args, **kwargs):
            result = plain(self, *args, **kwargs)
            counted[name] += size(self, result)
            return result

        patch.setattr(owner, name, method)

    with monkeypatch.context() as patch:
        for name in ("filter", "sort", "unique", "with_columns", "join"):
            noted(pl.DataFrame, name, lambda table, result: table.height)
        for name in ("slice", "__getitem__"):
            noted(pl.DataFrame, name, lambda table, result: len(result))
        for name in ("to_numpy", "sort", "unique", "is_in", "cast"):  # also what NumPy is given
            noted(pl.Series, name, lambda column, result: len(column))
        noted(pl.LazyFrame, "collect", lambda query, result: result.height)
        yield counted


def bytes_read() -> int:
    """Bytes that this process has asked the system to read, also of files that are in memory."""
    return int(Path("/proc/self/io").read_text().split()[1])


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, SimpleNamespace]:
    """For both sizes: the tables of ingest, split and graph, and what making them took."""
    monkeypatch.setattr(ranges, "_ROWS", 1_000)  # many ranges: work on all rows in each of them shows
    found = {}
    for size in (SMALL, LARGE):
        recipe = recipe_for(folder, size, settings=["split.k_core=2"])
        before = bytes_read()
        with rows_handled(monkeypatch) as ingest:
            cleaned = clean(read_source(recipe.data, folder), recipe.data).interactions
        path = folder / f"clean-{size}.parquet"
        write_table(cleaned, path, INTERACTIONS)
        read, before = bytes_read() - before, bytes_read()
        with rows_handled(monkeypatch) as split:
            parts = split_interactions(pl.scan_parquet(path), recipe.split)
        with rows_handled(monkeypatch) as graph:
            edges = edge_list(parts.parts["train"].lazy(), recipe.graph)
        work = {"ingest": ingest.total(), "split": split.total(), "graph": graph.total()}
        work |= {"bytes of ingest": read, "bytes of split": bytes_read() - before}
        # Small logs have more repeated pairs: what comes after ingest is measured by the pairs that are left.
        rows = dict.fromkeys(work, cleaned.height) | {"ingest": size, "bytes of ingest": size, "graph": edges.height}
        found[size] = SimpleNamespace(split=parts, work=work, rows=rows)
    return found


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return prepared(tmp_path_factory.mktemp("growth"), monkeypatch)


def test_rows_and_bytes_of_tables_grow_like_the_data(sizes):
    both = [sizes[size] for size in (SMALL, LARGE)]
    powers = {
        name: exponent(tuple(each.work[name] for each in both), tuple(each.rows[name] for each in both))
        for name in both[0].work
    }
    assert all(power < (MOST_BYTES if "bytes" in name else MOST) for name, power in powers.items()), powers
    assert powers["ingest"] > 0.8, "the counting misses what the stage does"


def test_every_row_is_looked_at_once_however_many_ranges_there_are(monkeypatch):
    rows = pl.DataFrame({"user": pl.int_range(10_000, eager=True).cast(pl.Int32) * 7919 % 1_000})
    for parts in (4, 40):
        monkeypatch.setattr(ranges, "_ROWS", rows.height // parts)
        with rows_handled(monkeypatch) as counted:
            found = list(ranges.of_users(rows, "user"))
        assert sum(part.height for part in found) == rows.height
        assert counted["filter"] == 0


# ---------------------------------------------------------------- training: operator calls, and numbers they go over


class Operators(TorchDispatchMode):
    """Counts the operators that are called, in the forward and backward pass, and the numbers that they go over.

    A sparse matrix has as many numbers as entries, each of which is multiplied with a row of the other matrix.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.numbers = self.steps = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls += 1
        tensors = [each for each in (*args, result) if isinstance(each, torch.Tensor)]
        width = max((each.shape[-1] for each in tensors if each.layout == torch.strided and each.dim() == 2), default=1)
        for each in tensors:
            self.numbers += each.numel() if each.layout == torch.strided else each.values().numel() * width
        return result


def interactions_of(found: SimpleNamespace) -> Interactions:
    parts = (Pairs.of_table(found.split.parts[part]) for part in ("train", "val", "test"))
    return Interactions(found.split.users.height, found.split.items.height, *parts)


def epoch(found: SimpleNamespace, **fields) -> Operators:
    sections = {"alignment": (), "dim": 8, "epochs": 1, "batch_size": 128} | fields
    config = TrainConfig.model_validate(sections)
    trainer = Trainer(config, interactions_of(found), None, None, torch.device("cpu"))
    with Operators() as counted:
        trainer.run_epoch()
    counted.steps = trainer.step
    return counted


def train_pairs(sizes: dict[int, SimpleNamespace]) -> tuple[float, float]:
    small, large = (sizes[size].split.parts["train"].height for size in (SMALL, LARGE))
    return small, large


@pytest.mark.parametrize("backbone", ["lightgcn", "mf"])
def test_an_epoch_grows_like_the_data(sizes, monkeypatch, backbone):
    monkeypatch.setattr(steps, "_MANY_PAIRS", 5_000)
    monkeypatch.setattr(steps, "_STEPS", 16)
    small, large = (epoch(sizes[size], backbone={"name": backbone}) for size in (SMALL, LARGE))
    per_step = (small.numbers / small.steps, large.numbers / large.steps)
    assert exponent(per_step, train_pairs(sizes)) < MOST
    assert max(small.steps, large.steps) <= 16
    assert large.calls / large.steps < 1.2 * small.calls / small.steps


def test_steps_of_one_size_are_found_out(sizes, monkeypatch):
    """What the guard is for: without growing batches an epoch of a graph model costs the square of the data."""
    monkeypatch.setattr(steps, "_MANY_PAIRS", 5_000)
    small, large = (epoch(sizes[size], batch_growth="none") for size in (SMALL, LARGE))
    assert exponent((small.numbers, large.numbers), train_pairs(sizes)) > 1.5


# ---------------------------------------------------------------- evaluation: products, and blocks that bound memory


def evaluation(
    found: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, ranker: MakeRanker = Ranker, skew: float = 0.0
) -> SimpleNamespace:
    """The scores of an evaluation, with items whose vectors are shorter by their rank to the power of `skew`."""
    data, scored = interactions_of(found), []
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(data.n_users + data.n_items, 8, generator=generator)
    nodes[data.n_users :] *= torch.arange(1, data.n_items + 1)[:, None] ** -skew
    plain = torch.mm

    def product(left, right, **kwargs):
        scored.append(left.shape[0] * right.shape[1])
        return plain(left, right, **kwargs)

    monkeypatch.setattr(torch, "mm", product)
    final = Representations(nodes, data.n_users)
    metrics = report(final, final, data, EvaluateConfig(cutoffs=(10,)), ranker=ranker).metrics
    pairs = data.n_users * data.n_items
    return SimpleNamespace(scores=sum(scored), largest=max(scored), pairs=pairs, metrics=metrics, users=data.n_users)


def test_evaluation_ranks_each_model_once_in_blocks(sizes, monkeypatch):
    """Model and reference take two products of users and items, of which one block is in memory; popularity none."""
    monkeypatch.setattr(top_items, "_USERS", {"cpu": 32})
    monkeypatch.setattr(top_items, "fastest", lambda items: torch.float32)
    for size in (SMALL, LARGE):
        with monkeypatch.context() as patch:
            found = evaluation(sizes[size], patch)
        assert found.pairs <= found.scores <= 2 * 1.1 * found.pairs
        assert found.largest <= 2**16


def test_evaluation_by_length_grows_like_the_users(sizes, monkeypatch):
    """Popular items have the longest vectors: each user's items are found in as many scores, however many items."""
    monkeypatch.setattr(longest_first, "fastest", lambda items: torch.float32)
    monkeypatch.setattr(longest_first, "_SMALLEST", 32)
    monkeypatch.setattr(longest_first, "_USERS", {"cpu": 64})
    monkeypatch.setattr(candidates, "_SAMPLE", 16)
    found = []
    for size in (SMALL, LARGE):
        with monkeypatch.context() as patch:
            found.append(evaluation(sizes[size], patch, LargeRanker, skew=0.8))
        with monkeypatch.context() as patch:
            exact = evaluation(sizes[size], patch, skew=0.8)
        assert found[-1].metrics == exact.metrics
    small, large = found
    assert exponent((small.scores, large.scores), (small.users, large.users)) < MOST
    assert large.scores < large.pairs / 2, "of the pairs of two models"
