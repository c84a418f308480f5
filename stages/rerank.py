"""rerank: writes the file of the reranker, which evaluation and the release use."""

import torch

from darec.artifacts.files import EMBEDDINGS, RERANKER, TEXT_VECTORS
from darec.evaluation.rerankers import build, write
from schemas.reports import RerankReport
from schemas.rerank import RerankConfig
from stages.contract import Outcome, StageContext

SOURCES = {"text": TEXT_VECTORS, "interactions": EMBEDDINGS}
"""The files of the vectors that a reranker may use."""


def run(context: StageContext) -> Outcome[RerankReport]:
    """Writes the reranker."""
    config: RerankConfig = context.config["rerank"]
    vectors = {name: torch.from_numpy(context.read(SOURCES[name]).item) for name in config.vectors}

    write(build(config, vectors), context.out / RERANKER.name)
    rows = max(map(len, vectors.values()), default=0)
    return Outcome(rows, RerankReport(name=config.name, items=rows))
