import faiss
import numpy as np
import pytest

from darec.common.errors import DarecError
from darec.serving import index_build, index_centroids
from darec.serving.index import Seen, normalised, nothing_seen, read, search, write
from darec.serving.index_build import build
from schemas.release import ExportConfig

KINDS = ("flat", "ivf", "hnsw")


def clustered(rows, width=16, clusters=40, seed=0):
    """Rows around a few centres, as trained item vectors are."""
    centres = np.random.default_rng(99).standard_normal((clusters, width))
    generator = np.random.default_rng(seed)
    points = centres[generator.integers(clusters, size=rows)] + 0.4 * generator.standard_normal((rows, width))
    return points.astype(np.float32)


def exact(vectors, queries, k, banned):
    scores = queries @ vectors.T
    scores[banned] = -np.inf
    order = np.argsort(-scores, axis=1)[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def random_seen(queries, items, share, seed=1):
    mask = np.random.default_rng(seed).random((queries, items)) < share
    rows, columns = np.nonzero(mask)
    return mask, Seen(rows, columns)


@pytest.mark.parametrize("kind", KINDS)
def test_found_items_are_the_exact_ones_with_seen_left_out(kind, tmp_path):
    vectors, queries = clustered(4000), clustered(300, seed=5)
    index, report = build(vectors, queries, ExportConfig(index=kind))
    write(index, tmp_path / "index")
    mask, seen = random_seen(300, 4000, 0.05)
    ids, scores = search(read(tmp_path / "index"), queries, 20, seen)
    right, _ = exact(vectors, queries, 20, mask)
    found = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(ids, right, strict=True)])
    assert not mask[np.arange(300)[:, None], ids].any()
    assert found >= (1.0 if kind == "flat" else 0.95)
    assert abs(report.recall - found) < 0.05
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[ids]), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 1e-5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_input_gives_equal_bytes_whatever_the_threads(kind):
    vectors, config = clustered(3000), ExportConfig(index=kind)
    made = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        made.append(faiss.serialize_index(build(vectors, vectors[:50], config)[0]).tobytes())
    assert made[0] == made[1]
    assert faiss.omp_get_max_threads() == 2


def test_k_means_in_regions_finds_as_much_with_as_many_lists(monkeypatch):
    vectors, queries = clustered(5_000), clustered(100, seed=2)
    config = ExportConfig(index="ivf", lists=128)
    _, whole = build(vectors, queries, config)
    monkeypatch.setattr(index_centroids, "_MANY", 128)
    made = [build(vectors, queries, config) for _ in range(2)]

    index, report = made[0]
    assert report.recall >= config.target_recall
    assert report.effort <= 2 * whole.effort
    assert index.nlist == index.quantizer.ntotal == 128
    assert len(np.unique(index.quantizer.reconstruct_n(0, 128), axis=0)) == 128
    assert faiss.serialize_index(index).tobytes() == faiss.serialize_index(made[1][0]).tobytes()


def test_many_vectors_are_compared_with_the_same_exact_lists(monkeypatch):
    vectors, queries = clustered(5_000), clustered(100, seed=2)
    config = ExportConfig(index="ivf", target_recall=0.99)
    few, few_report = build(vectors, queries, config)
    monkeypatch.setattr(index_build, "_WORTH_TORCH", 1_000)
    many, many_report = build(vectors, queries, config)
    assert many_report == few_report
    assert faiss.serialize_index(many).tobytes() == faiss.serialize_index(few).tobytes()


def test_work_of_k_means_grows_little_more_than_the_rows(monkeypatch):
    """With twice the rows and lists, k-means for all rows would compare four times as many pairs."""
    compared = []

    def first_rows(rows, count, settings, place):
        used = min(len(rows), settings.max_points_per_centroid * count)
        compared.append(used * count)
        return rows[:count]

    monkeypatch.setattr(index_centroids, "_kmeans", first_rows)
    settings = faiss.ClusteringParameters()
    settings.max_points_per_centroid = 40
    work = []
    for lists in (1024, 2048):
        compared.clear()
        assert index_centroids.clustered(clustered(40 * lists), lists, settings, lambda index: index).shape[0] == lists
        work.append(sum(compared))
    assert work[0] < 40 * 1024 * 1024 / 8
    assert work[1] / work[0] < 3.2


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_effort_is_the_least_power_of_two_that_reaches_the_target(kind):
    vectors, queries = clustered(4000), clustered(200, seed=2)
    efforts = []
    for target in (0.3, 0.999):
        _, report = build(vectors, queries, ExportConfig(index=kind, target_recall=target))
        assert report.recall >= target
        efforts.append(report.effort)
        if report.effort > 1:
            lower = build(vectors, queries, ExportConfig(index=kind, target_recall=target, effort=report.effort // 2))[
                1
            ]
            assert lower.recall < target
    assert efforts[0] <= efforts[1]


@pytest.mark.parametrize(("of_items", "of_queries"), [(1e-4, 1e-6), (1e3, 1e-3)])
def test_the_scale_of_vectors_changes_neither_effort_nor_recall_nor_answers(of_items, of_queries):
    vectors, queries, config = clustered(4000), clustered(200, seed=2), ExportConfig(index="ivf", target_recall=0.9)
    plain, expected = build(vectors, queries, config)
    scaled, report = build(vectors * np.float32(of_items), queries * np.float32(of_queries), config)
    assert (report.effort, report.recall) == (expected.effort, pytest.approx(expected.recall, abs=0.005))
    ids, scores = search(plain, queries, 20, nothing_seen())
    found, values = search(scaled, queries * np.float32(of_queries), 20, nothing_seen())
    assert (ids == found).mean() > 0.99
    np.testing.assert_allclose(values, scores * of_items * of_queries, rtol=1e-3)


def test_recall_tells_an_index_out_of_step_with_the_vectors():
    from darec.serving.index import recall

    vectors = clustered(500)
    index, report = build(vectors, vectors, ExportConfig(index="flat"))
    limits = np.sort(vectors @ vectors.T, axis=1)[:, -20]
    assert report.recall == 1.0 == recall(index, vectors, vectors, limits, 20)
    assert recall(index, np.roll(vectors, 1, axis=0), vectors, limits, 20) < 0.7


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_user_who_has_seen_nearly_everything_still_gets_the_rest(kind):
    vectors = clustered(1000)
    index, _ = build(vectors, vectors[:50], ExportConfig(index=kind, effort=1))
    left = np.array([3, 500, 998])
    items = np.setdiff1d(np.arange(1000), left)
    ids, scores = search(index, vectors[:1], 5, Seen(np.zeros(len(items), np.int64), items))
    assert sorted(ids[0, :3]) == left.tolist()
    assert ids[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 3:]).all()


def test_auto_is_flat_until_the_catalogue_is_large():
    vectors = clustered(2000)
    assert build(vectors, vectors, ExportConfig(flat_up_to=2000))[1].kind == "flat"
    assert build(vectors, vectors, ExportConfig(flat_up_to=1999))[1].kind == "ivf"


def test_auto_is_flat_where_lists_save_nothing():
    """Directions at random have no neighbourhoods: nearly all lists are needed."""
    vectors, queries = (np.random.default_rng(seed).standard_normal((3000, 64)).astype(np.float32) for seed in (0, 1))
    config = ExportConfig(flat_up_to=1000)
    index, report = build(vectors, queries[:50], config)
    assert (report.kind, report.effort, report.recall) == ("flat", 0, 1.0) and isinstance(index, faiss.IndexFlat)
    assert build(vectors, queries[:50], ExportConfig(index="ivf"))[1].effort > 16, (
        "of 64 lists; asked for, they are kept"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_item_is_a_catalogue_too(kind):
    index, report = build(np.ones((1, 4), np.float32), np.ones((3, 4), np.float32), ExportConfig(index=kind))
    assert report.vectors == 1
    assert search(index, np.ones((2, 4), np.float32), 5, nothing_seen())[0].tolist() == [[0, -1, -1, -1, -1]] * 2


def test_more_queries_than_a_chunk_keep_their_order():
    vectors, queries = clustered(300), clustered(2500, seed=3)
    mask, seen = random_seen(2500, 300, 0.1)
    index, _ = build(vectors, queries, ExportConfig(index="flat"))
    ids, _ = search(index, queries, 5, seen)
    _, scores = exact(vectors, queries, 5, mask)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", queries, vectors[ids]), scores, rtol=1e-4, atol=1e-4)


def test_normalised_rows_have_length_one_and_zero_stays_zero():
    rows = normalised(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])


def test_a_file_that_is_no_index_is_one_clear_error(tmp_path):
    (tmp_path / "index").write_bytes(b"nonsense")
    with pytest.raises(DarecError, match="index cannot be read"):
        read(tmp_path / "index")
