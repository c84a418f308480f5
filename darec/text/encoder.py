"""Text vectors: sentence-transformers in this process, or vLLM's pooling runner; known texts come from the ledger."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.errors import DarecError, UserError
from darec.common.progress import Progress, Silent
from darec.common.registry import Registry
from darec.text.models import identity, resolve
from schemas.section import hashed
from schemas.semantic import EmbedConfig
from schemas.tables import VECTOR_ROWS

_ROWS_READ = 2048  # rows at a time


@dataclass(frozen=True)
class Embedding:
    """Encodes texts under one configuration; vectors are kept in a separate ledger per model."""

    config: EmbedConfig
    ledger_root: Path
    progress: Progress = field(default_factory=Silent)

    @property
    def ledger(self) -> Ledger:
        """The row ledger of this model's vectors."""
        name = identity(self.config.model, self.config.revision)[:16]
        return Ledger(self.ledger_root / f"vectors-{name}.sqlite", VECTOR_ROWS)

    def keys(self, texts: pl.Series) -> pl.Series:
        """The ledger key of each text, from the text, the model, and the maximum length."""
        model, engine = identity(self.config.model, self.config.revision), hashed(self.config)["engine"]
        common = json.dumps([model, engine, self.config.max_tokens])
        return pl.Series(KEY, [row_key(common.encode(), text.encode()) for text in texts], dtype=pl.String)

    def run(self, texts: pl.Series) -> tuple[np.ndarray, dict[str, Any]]:
        """Vectors [n, d] float32, L2-normalised, in the order of `texts`, and the report.

        Raises:
            UserError: the model cannot be loaded.
            DarecError: the model returns vectors that are not finite.
        """
        started = time.monotonic()
        keys = self.keys(texts)
        missing = self.ledger.missing(keys, repair=True)
        new = (
            pl.DataFrame({KEY: keys, "text": texts})
            .unique(KEY, keep="first")
            .join(missing.to_frame(), on=KEY, how="semi")
        )
        self.progress.start("text vectors", new.height)
        if new.height:
            self._encode(new.sort(pl.col("text").str.len_bytes(), KEY, descending=True))
        report = {"rows": len(texts), "from_ledger": keys.n_unique() - new.height, "generated": new.height}

        return self._read(keys), report | {"seconds": round(time.monotonic() - started, 2)}

    def _encode(self, new: pl.DataFrame) -> None:
        for start, vectors in _vectors(self.config, new["text"]):
            if not np.isfinite(vectors).all():
                raise DarecError("the text model returned a vector that is not finite", where=self.config.model)
            payload = [row.astype("<f4").tobytes() for row in vectors]
            self.ledger.append(pl.DataFrame({KEY: new[KEY][start : start + len(vectors)], "vector": payload}))
            self.progress.advance(len(vectors))

    def _read(self, keys: pl.Series) -> np.ndarray:
        """The vectors of `keys`, in their order, read in chunks so that they are in memory only once."""
        vectors = np.empty((len(keys), 0), np.float32)
        for part in keys.to_frame().with_row_index().sort(KEY).iter_slices(_ROWS_READ):
            cells = self.ledger.rows(part[KEY], ["vector"])["vector"]
            chunk = np.frombuffer(b"".join(cells), "<f4").reshape(len(cells), -1)
            if vectors.shape[1] == 0:
                vectors = np.empty((len(keys), chunk.shape[1]), np.float32)
            vectors[part["index"].to_numpy()] = chunk
        return vectors


def token_counts(config: EmbedConfig, texts: pl.Series) -> list[int | None]:
    """The number of the encoder's tokens of each full text; None for an encoder without a `tokenizer.json`.

    Raises:
        UserError: the model is not on this machine.
    """
    from tokenizers import Tokenizer

    path = resolve(config.model, config.revision) / "tokenizer.json"
    if not path.is_file():
        return [None] * len(texts)

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts.to_list())]


def _vectors(config: EmbedConfig, texts: pl.Series) -> Iterator[tuple[int, np.ndarray]]:
    return ENCODERS.make(config.engine, config, texts)


ENCODERS: Registry[Iterator[tuple[int, np.ndarray]]] = Registry("text encoder")
"""Functions of `EmbedConfig` and the texts, by `embed.engine`.

They yield (number of the first text, unit vectors [rows, d]) per chunk.
"""


@ENCODERS.register("vllm")
def _vllm(config: EmbedConfig, texts: pl.Series) -> Iterator[tuple[int, np.ndarray]]:
    from darec.text.engine import EngineSettings, OfflineEngine

    with OfflineEngine(EngineSettings.pooling(config, resolve(config.model, config.revision))) as engine:
        yield from engine.embed(texts.to_list())


@ENCODERS.register("ray")
def _ray(config: EmbedConfig, texts: pl.Series) -> Iterator[tuple[int, np.ndarray]]:
    from darec.text.ray_engine import RayEngine

    with closing(RayEngine(config)) as engine:
        yield from engine.embed(texts.to_list())


@ENCODERS.register("sentence-transformers")
def _sentence_transformers(config: EmbedConfig, texts: pl.Series) -> Iterator[tuple[int, np.ndarray]]:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    from darec.common.device import bfloat16_helps, pick

    disable_progress_bar()  # disables the bar for loading weights: the stage has its own
    folder = resolve(config.model, config.revision)
    device = pick("auto", "embed")
    try:
        model = SentenceTransformer(
            str(folder), device=device.type, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "check embed.model: it must be a sentence-transformers model"
        raise UserError(f"the text model cannot be loaded ({reason})", where=str(folder), hint=hint) from error

    model.max_seq_length = min(model.max_seq_length or config.max_tokens, config.max_tokens)
    for start in range(0, len(texts), config.chunk):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_helps(device)):  # within 1e-4 in cosine
            batch = texts[start : start + config.chunk].to_list()
            vectors = model.encode(batch, batch_size=config.batch, convert_to_tensor=True, show_progress_bar=False)
        yield start, torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
