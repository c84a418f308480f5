from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from darec.serving import bundle as bundle_module
from darec.serving.bundle import USERS_FILE, Bundle, vectors_of
from darec.serving.recommend import recommend, recommend_many, similar
from schemas.release import BUNDLE_FILES
from tests.release_samples import contents, export, flip_byte

USERS, ITEMS = 30, 50


@cache
def opened(seed: int, seen_share: float) -> tuple[Bundle, np.ndarray, np.ndarray]:
    """A bundle, its score matrix, and its seen matrix, straight from the contents."""
    sample = contents(USERS, ITEMS, seed=seed, seen_share=seen_share, cold_users=2)
    bundle = Bundle.open(export(Store(Path(mkdtemp())), sample).path)
    seen = np.zeros((USERS, ITEMS), bool)
    seen[sample.seen["user_index"], sample.seen["item_index"]] = True
    return bundle, vectors_of(sample.users) @ vectors_of(sample.items).T, seen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 3),
    seen_share=st.sampled_from([0.0, 0.05, 0.2, 0.9, 1.0]),
    asked=st.lists(st.integers(0, USERS - 3), min_size=1, max_size=40),
    k=st.integers(1, 80),
)
def test_answers_are_those_of_brute_force(seed, seen_share, asked, k):
    bundle, scores, seen = opened(seed, seen_share)
    answer = recommend_many(bundle, [f"u{user}" for user in asked], k)
    popularity = seen[: USERS - 2].sum(0)
    expected, right = [], []
    for user in asked:
        value = scores[user] if seen[user].any() else popularity
        unseen = np.flatnonzero(~seen[user])
        best = unseen[np.argsort(-value[unseen], kind="stable")][:k]
        right += value[best].tolist()
        expected += [(f"u{user}", rank + 1, f"i{item}", f"Title {item}") for rank, item in enumerate(best)]
    assert answer.select("user_id", "rank", "item_id", "title").rows() == expected
    np.testing.assert_allclose(answer["score"], right, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 3), item=st.integers(0, ITEMS - 1), k=st.integers(1, 80))
def test_similar_items_are_those_of_brute_force(seed, item, k):
    bundle, _, _ = opened(seed, 0.2)
    vectors = vectors_of(bundle.item_vectors(bundle.items["item_id"].to_list()))
    cosine = vectors @ vectors[item] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[item])
    others = [other for other in np.argsort(-cosine) if other != item][:k]
    answer = similar(bundle, f"i{item}", k)
    assert answer["item_id"].to_list() == [f"i{other}" for other in others]
    np.testing.assert_allclose(answer["score"], cosine[others], rtol=1e-5, atol=1e-5)


def test_a_user_who_has_seen_everything_gets_an_empty_answer_not_an_error():
    bundle, _, _ = opened(0, 1.0)
    assert recommend(bundle, "u0").is_empty()


def test_a_user_without_train_interactions_gets_unseen_popular_items_marked_so():
    bundle, _, seen = opened(0, 0.2)
    answer = recommend_many(bundle, ["u0", f"u{USERS - 1}"], 5)
    assert answer["source"].to_list() == ["model"] * 5 + ["popularity"] * 5
    counts = seen[: USERS - 2].sum(0)
    unseen = np.flatnonzero(~seen[-1])
    best = unseen[np.argsort(-counts[unseen], kind="stable")][:5]
    assert answer["item_id"].to_list()[5:] == [f"i{item}" for item in best]
    assert answer["score"].to_list()[5:] == counts[best].tolist()


def test_the_answer_for_one_user_reads_one_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "_ROWS_IN_GROUP", 100)
    release = Bundle.open(export(Store(tmp_path), contents(users=1000)).path)
    expected, users = recommend(release, "u350"), release.folder / USERS_FILE
    parquet = pq.ParquetFile(users)
    with users.open("r+b") as file:
        for group in set(range(parquet.num_row_groups)) - {3}:
            vectors = parquet.metadata.row_group(group).column(2)
            file.seek(vectors.dictionary_page_offset or vectors.data_page_offset)
            file.write(bytes(vectors.total_compressed_size))
    assert recommend(release, "u350").equals(expected)
    with pytest.raises(pl.exceptions.ComputeError):
        recommend(release, "u450")


def test_one_and_many_agree():
    bundle, _, _ = opened(1, 0.2)
    alone = pl.concat([recommend(bundle, f"u{user}", 7) for user in range(USERS)])
    together = recommend_many(bundle, [f"u{user}" for user in range(USERS)], 7)
    assert alone.drop("score").equals(together.drop("score"))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda bundle: recommend(bundle, "u7x"), r"user 'u7x' is not in the release .*nearest known: .*\bu7\b"),
        (lambda bundle: recommend_many(bundle, ["u0", "i'); drop"]), "is not in the release"),
        (lambda bundle: recommend(bundle, ""), "is not in the release"),
        (lambda bundle: similar(bundle, "i444"), r"item 'i444' is not in the release .*nearest known: .*\bi44\b"),
        (lambda bundle: recommend(bundle, "u0", 0), "use at least 1"),
        (lambda bundle: similar(bundle, "i0", -1), "use at least 1"),
    ],
)
def test_what_cannot_be_answered_is_the_users_error(ask, message):
    with pytest.raises(UserError, match=message):
        ask(opened(0, 0.2)[0])


@pytest.mark.parametrize("file", [*BUNDLE_FILES, "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_file_is_one_clear_error(tmp_path, file, harm):
    path = export(Store(tmp_path)).path
    if harm == "flip":
        flip_byte(path / file)
    elif harm == "cut":
        (path / file).write_bytes((path / file).read_bytes()[:-7])
    else:
        (path / file).unlink()
    with pytest.raises(DarecError, match="damaged|cannot be read"):
        Bundle.open(path)


def test_equal_contents_give_equal_bytes(tmp_path):
    first, second = (export(Store(tmp_path / name)) for name in "ab")
    assert first.hashes == second.hashes


def test_vectors_that_are_not_finite_are_reported_for_the_gate(tmp_path):
    sample = contents(4, 6, width=2)
    broken = vectors_of(sample.items).copy()
    broken[2, 0], broken[3, 1] = np.nan, np.inf
    items = sample.items.with_columns(pl.Series("vector", broken, dtype=pl.Array(pl.Float32, 2)))
    bundle = Bundle.open(export(Store(tmp_path), type(sample)(sample.users, items, sample.seen)).path)
    assert bundle.report.items.not_finite == 2
    assert bundle.report.users.not_finite == 0
