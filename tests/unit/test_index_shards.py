"""Item indexes that are built a shard at a time: the answers of one built in memory, from a part of the vectors."""

import faiss
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from darec.artifacts.store import Store
from darec.common.errors import DarecError
from darec.serving import index_build
from darec.serving.bundle import Bundle
from darec.serving.forgetting import forget
from darec.serving.index import Seen, lists_file, nothing_seen, read, search
from darec.serving.index_build import Rows, build_file
from darec.serving.recommend import recommend_many, similar
from darec.serving.releases import Releases
from darec.serving.retention import collect
from schemas.release import ExportConfig
from tests.release_samples import GATE, contents, export
from tests.unit.test_index import clustered, random_seen

ITEMS, SHARD = 6000, 700


class Counted:
    """Vectors in a file; remembers how many rows were in memory at a time, and how often the whole was read."""

    def __init__(self, path, vectors):
        np.save(path, vectors)
        self.mapped, self.most, self.rows = np.load(path, mmap_mode="r"), 0, 0
        self.shape = self.mapped.shape

    def __len__(self):
        return len(self.mapped)

    def __getitem__(self, chosen):
        part = self.mapped[chosen]
        self.most, self.rows = max(self.most, len(part)), self.rows + len(part)
        return part


def same(vectors):
    return vectors


@pytest.fixture
def both(tmp_path):
    vectors, queries = clustered(ITEMS), clustered(200, seed=4)
    config = {"index": "ivf", "lists": 32, "recall_queries": 20}
    (tmp_path / "memory").mkdir()
    (tmp_path / "shards").mkdir()
    reports = [
        build_file(vectors, queries, ExportConfig(**config), tmp_path / "memory" / "items.faiss"),
        build_file(vectors, queries, ExportConfig(**config, shard_items=SHARD), tmp_path / "shards" / "items.faiss"),
    ]
    return tmp_path, queries, reports


def test_a_sharded_index_answers_as_the_one_in_memory(both):
    folder, queries, (whole, sharded) = both
    assert sharded.model_copy(update={"bytes": whole.bytes}) == whole
    indexes = [read(folder / name / "items.faiss") for name in ("memory", "shards")]
    _, seen = random_seen(len(queries), ITEMS, 0.02)
    allowed = np.arange(ITEMS) % 3 > 0
    for pairs, some in ((nothing_seen(), None), (seen, None), (seen, allowed)):
        (ids, scores), (same_ids, same_scores) = (search(one, queries, 20, pairs, some) for one in indexes)
        np.testing.assert_array_equal(ids, same_ids)
        np.testing.assert_array_equal(scores, same_scores)


def test_its_files_are_two_whatever_their_folder_and_nothing_else_is_left(both, capfd):
    folder, queries, (_, sharded) = both
    path = folder / "shards" / "items.faiss"
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["items.faiss", "items.ivfdata"]
    assert sharded.bytes == sum(file.stat().st_size for file in path.parent.iterdir())

    # A release is a folder that is moved and made read-only, and equal contents give equal bytes.
    moved = path.parent.rename(folder / "moved") / path.name
    for file in moved.parent.iterdir():
        file.chmod(0o444)
    assert (search(read(moved), queries, 5, nothing_seen())[0] >= 0).all()
    (folder / "again").mkdir()
    config = ExportConfig(index="ivf", lists=32, recall_queries=20, shard_items=SHARD)
    build_file(clustered(ITEMS), queries, config, folder / "again" / "items.faiss")
    assert capfd.readouterr().out == "", "FAISS prints to the terminal"
    for name in files:
        assert (folder / "again" / name).read_bytes() == (moved.parent / name).read_bytes()


def test_no_more_than_a_shard_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(index_build, "_EXACT_BLOCK", SHARD)
    held = []
    add = index_build._add
    monkeypatch.setattr(
        index_build, "_add", lambda index, rows, *rest: (add(index, rows, *rest), held.append(index.ntotal))
    )
    raw = Counted(tmp_path / "vectors.npy", clustered(ITEMS))
    config = ExportConfig(index="ivf", lists=8, recall_queries=20, shard_items=SHARD)
    build_file(Rows(raw, same), clustered(50, seed=4), config, tmp_path / "items.faiss")
    assert raw.most == SHARD, "also the sample of k-means is smaller here: 8 x 64 rows"
    assert held == [SHARD] * 8 + [ITEMS - 8 * SHARD], "vectors that an index in memory holds"
    assert raw.rows < 4 * ITEMS, "the longest, the lists, the exact search, and samples"


def test_a_search_in_a_sharded_index_is_exact_where_it_must_be(both):
    folder, queries, _ = both
    index = read(folder / "shards" / "items.faiss")
    index.nprobe = 1
    left = np.array([3, 500, 998])
    items = np.setdiff1d(np.arange(ITEMS), left)
    ids, _ = search(index, queries[:1], 5, Seen(np.zeros(len(items), np.int64), items))
    assert sorted(ids[0, :3]) == left.tolist()


def test_a_lost_or_cut_list_file_is_one_clear_error(both):
    folder, _, _ = both
    path = folder / "shards" / "items.faiss"
    with lists_file(path).open("r+b") as file:
        file.truncate(lists_file(path).stat().st_size // 2)
    with pytest.raises(DarecError, match="index cannot be read"):
        read(path)
    lists_file(path).unlink()
    with pytest.raises(DarecError, match="index cannot be read"):
        read(path)


def test_k_means_gets_the_rows_that_faiss_would_take():
    vectors = clustered(3000)
    index = faiss.index_factory(16, "IVF16,Flat", faiss.METRIC_L2)
    index.cp.seed, index.cp.max_points_per_centroid = 5, 64
    whole, sampled = faiss.clone_index(index), faiss.clone_index(index)
    for each in (whole, sampled):
        each.cp.seed, each.cp.max_points_per_centroid = 5, 64
    whole.train(vectors)
    sampled.train(np.ascontiguousarray(vectors[index_build._sample(3000, index)]))
    centroids = [each.quantizer.reconstruct_n(0, 16) for each in (whole, sampled)]
    np.testing.assert_array_equal(*centroids)


def test_releases_with_sharded_indexes_are_served_forgotten_rolled_back_and_removed(tmp_path):
    store, config = Store(tmp_path / "store"), {"index": "ivf", "lists": 4}
    first, second = (contents(seed=seed, items=200) for seed in range(2))
    metrics = {"recall@20": 0.3}
    for sample in (first, second):
        bundle = export(store, sample, metrics, ExportConfig(**config, shard_items=60))
        Releases(store.root).publish(bundle.path, GATE)
    whole = export(Store(tmp_path / "whole"), second, metrics, ExportConfig(**config))
    users = [f"u{number}" for number in range(30)]

    def lists():
        return recommend_many(Bundle.open(Releases(store.root).serving()), users, 10)

    assert {"items.ivfdata", "similar.ivfdata"} <= bundle.manifest.files.keys(), "they are verified with the others"
    assert_frame_equal(lists(), recommend_many(Bundle.open(whole.path), users, 10))
    assert_frame_equal(*(similar(Bundle.open(folder), "i7", 10) for folder in (bundle.path, whole.path)))

    before = lists()
    forget(store, "u3")
    users.remove("u3")
    assert_frame_equal(lists(), before.filter(pl.col("user_id") != "u3"))
    Releases(store.root).rollback()
    assert not lists().equals(before.filter(pl.col("user_id") != "u3"))
    collect(store, releases=0, artifacts=0)
    assert [path.parent for path in (tmp_path / "store").rglob("items.ivfdata")] == [
        Releases(store.root).serving().resolve()
    ]


@pytest.mark.parametrize("shard_items", [SHARD, ITEMS])
def test_with_a_gpu_all_searches_of_a_build_run_there(shard_items, tmp_path, monkeypatch):
    """A stand-in for FAISS on a GPU, as there is none here; `tests/gpu/test_index_gpu.py` needs a real one."""
    copied, compared = [], []

    def to_gpu(resources, number, index):
        copied.append(index.ntotal)
        return faiss.clone_index(index)

    def knn(resources, queries, vectors, k, metric):
        compared.append(len(vectors))
        return faiss.knn(queries, vectors, k, metric=metric)

    stand_ins = {"StandardGpuResources": object, "index_cpu_to_gpu": to_gpu, "knn_gpu": knn, "get_num_gpus": lambda: 1}
    vectors, queries = clustered(ITEMS), clustered(50, seed=4)
    config = ExportConfig(index="ivf", lists=32, recall_queries=20, shard_items=shard_items)
    on_cpu = build_file(vectors, queries, config, tmp_path / "cpu.faiss")
    assert not copied, "too few rows for a GPU, if there is one"

    monkeypatch.setattr(index_build, "_WORTH_A_GPU", ITEMS)
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(faiss, name, stand_in, raising=False)
    assert build_file(vectors, queries, config, tmp_path / "gpu.faiss") == on_cpu
    assert copied == [0] + [32] * -(-ITEMS // shard_items), "k-means, and the lists of each shard"
    assert sum(compared) == ITEMS
    for suffix in (".faiss", ".ivfdata"):
        files = [tmp_path / f"{name}{suffix}" for name in ("cpu", "gpu")]
        assert files[0].is_file() == files[1].is_file() == (suffix == ".faiss" or shard_items == SHARD)
    ids = [search(read(tmp_path / f"{name}.faiss"), queries, 20, nothing_seen())[0] for name in ("cpu", "gpu")]
    np.testing.assert_array_equal(*ids)
