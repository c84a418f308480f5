"""Text vectors by the real encoder: right rows, unit length, and known texts are not encoded again."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from darec.common.errors import DarecError, UserError
from darec.text import encoder
from darec.text.encoder import Embedding
from schemas.semantic import EmbedConfig

TEXTS = pl.Series(
    "text",
    [
        "a dark space horror",
        "a film about frightening aliens in space",
        "a warm romantic comedy",
        "a dark space horror",
    ],
)


def test_vectors_are_unit_rows_in_order_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, report = Embedding(EmbedConfig(chunk=2), tmp_path).run(TEXTS)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert (report["generated"], report["from_ledger"]) == (3, 0)

    monkeypatch.setattr(encoder, "_vectors", lambda *_: pytest.fail("known texts were encoded again"))
    again, report = Embedding(EmbedConfig(chunk=7, batch=3), tmp_path).run(TEXTS.reverse())
    np.testing.assert_array_equal(again, vectors[::-1])
    assert report["from_ledger"] == 3


def test_a_long_text_is_cut_and_another_cut_is_another_row(tmp_path: Path) -> None:
    long = pl.Series("text", ["space " * 5_000])
    Embedding(EmbedConfig(max_tokens=16), tmp_path).run(long)
    other = Embedding(EmbedConfig(max_tokens=32), tmp_path)
    assert len(other.ledger.missing(other.keys(long))) == 1


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_vectors", lambda *_: iter([(0, np.full((3, 4), np.nan, np.float32))]))
    with pytest.raises(DarecError, match="not finite"):
        Embedding(EmbedConfig(), tmp_path).run(TEXTS)


def test_a_folder_that_is_no_text_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be loaded"):
        Embedding(EmbedConfig(model=str(tmp_path / "model")), tmp_path / "ledger").run(TEXTS)
