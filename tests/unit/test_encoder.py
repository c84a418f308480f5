"""Text vectors by the real encoder: right rows, unit length, and known texts are not encoded again."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from darec.common.errors import DarecError, UserError
from darec.text import encoder
from darec.text.encoder import Embedding
from schemas.reports import EmbedReport
from schemas.semantic import EmbedConfig
from stages import embed

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


MEMORY = """
import sys
import os
import subprocess
import sys
from pathlib import Path
import numpy as np, polars as pl
from darec.text import encoder
from darec.text.encoder import Embedding
from schemas.reports import EmbedReport
from schemas.semantic import EmbedConfig
from stages import embed

def highest() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)

count, width = 60_000, 384
encoder._vectors = lambda config, texts: (
    (start, np.full((min(1024, count - start), width), start, np.float32)) for start in range(0, count, 1024)
)
embedding = Embedding(EmbedConfig(), Path(sys.argv[1]))
texts = pl.Series("text", [f"text {number}" for number in range(count)])
embedding.run(texts[:0])
embedding._encode(pl.DataFrame({"key": embedding.keys(texts), "text": texts}))
Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten
before = highest()
vectors, report = embedding.run(texts)
assert report["generated"] == 0 and vectors.shape == (count, width)
print((highest() - before) * 1024 / vectors.nbytes)
"""


def test_vectors_are_in_memory_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1.5


def test_texts_that_tell_few_rows_apart_are_remarked() -> None:
    assert embed._alike(pl.Series(["a", "b", "b", "b"])) == ""
    assert embed._alike(pl.Series(["a", "a", "a", "b", "a"])) == "3 of 5"
    [remark] = EmbedReport(alike={"items": "3 of 5"}).remarks
    assert remark.startswith("3 of 5 texts of items are the same as another one")
