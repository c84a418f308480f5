"""All rerankers, by configuration, and the file that stores one for evaluation and releases."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from darec.common.errors import DarecError
from darec.evaluation import mmr
from darec.evaluation.rerank import RERANKERS, Reranker
from schemas.rerank import RerankConfig

REGISTERED = (mmr,)

_CONFIG = "rerank"  # the key of the configuration, as JSON, in the file's metadata


def build(config: RerankConfig, vectors: Mapping[str, Tensor]) -> Reranker:
    """The reranker for `config`, with vectors of items [n_items, d] by the names in `config.vectors`."""
    return RERANKERS.build(config, vectors)


def write(reranker: Reranker, path: Path) -> None:
    """Writes the configuration and the vectors. Half precision is sufficient for comparing items."""
    rows = {name: vectors.half().contiguous() for name, vectors in reranker.vectors.items()}
    save_file(rows, path, metadata={_CONFIG: reranker.config.model_dump_json()})


def read(path: Path) -> Reranker:
    """The reranker of a file. Raises DarecError if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            config = TypeAdapter(RerankConfig).validate_json(file.metadata()[_CONFIG])
            return build(config, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "run again to rebuild it, or run `darec rollback`"
        raise DarecError(f"the reranker cannot be read ({reason})", where=str(path), hint=hint) from error
