"""Bundles of known content, committed to a store as the stage `export` commits them."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from darec.artifacts.keys import artifact_key
from darec.artifacts.store import Artifact, Store, file_records
from darec.serving.bundle import Contents, write_bundle
from schemas.manifest import Manifest
from schemas.release import ExportConfig, GateConfig

GATE = GateConfig(minimums={}, tolerances={"recall@20": 0.05})


def contents(users=30, items=50, width=8, seed=0, seen_share=0.2, cold_users=0) -> Contents:
    """Random vectors; the last `cold_users` users have no train interaction."""
    generator = np.random.default_rng(seed)
    pairs = np.argwhere(generator.random((users, items)) < seen_share).astype(np.int32)
    seen = pl.DataFrame({"user_index": pairs[:, 0], "item_index": pairs[:, 1]})
    train = pairs[pairs[:, 0] < users - cold_users]
    counts = [np.bincount(train[:, side], minlength=size) for side, size in enumerate((users, items))]
    titles = pl.Series("title", [f"Title {number}" for number in range(items)])
    return Contents(
        users=_side("user_id", "u", generator.standard_normal((users, width)), counts[0]),
        items=_side("item_id", "i", generator.standard_normal((items, width)), counts[1]).insert_column(1, titles),
        seen=seen,
    )


def _side(name: str, prefix: str, vectors: np.ndarray, counts: np.ndarray) -> pl.DataFrame:
    width = vectors.shape[1]
    return pl.DataFrame(
        {
            name: [f"{prefix}{number}" for number in range(len(vectors))],
            "train_count": counts.astype(np.int32),
            "vector": pl.Series(vectors.astype(np.float32), dtype=pl.Array(pl.Float32, width)),
        }
    )


def export(
    store: Store, sample: Contents | None = None, metrics=None, config=None, settings=None, inputs=None
) -> Artifact:
    """An export artifact made from `inputs`; `settings` stands for what else would be in its key."""
    metrics = {"recall@20": 0.3, "ndcg@20": 0.2, "coverage@20": 0.5} if metrics is None else metrics
    material = {"stage": "export", "version": 1, "config": {"export": settings or {}}, "extra": {}}
    with store.draft("export", "sample") as draft:
        write_bundle(draft, sample or contents(), metrics, config or ExportConfig())
        hashes = {name: record.sha256 for name, record in file_records(draft).items()}
        key = artifact_key({**material, "metrics": metrics, "files": hashes})
        manifest = Manifest(
            stage="export",
            key=key,
            why=("never run",),
            material=material,
            inputs=inputs or {},
            files=file_records(draft),
            rows=1,
            report={},
            created=datetime.now(UTC),
            seconds=0.0,
            peak_memory_mb=0.0,
            code="test",
            versions={},
        )
        return store.commit(draft, manifest)


def flip_byte(path: Path) -> None:
    """One bit wrong in the middle of a file, its size unchanged."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
