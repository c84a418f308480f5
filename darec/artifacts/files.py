"""Every file that the stages write into their artifacts: the handles by which they are written and read.

No large library is imported here, so that `darec status` is fast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from darec.artifacts.formats import Format, Json, OpaqueFile, Table, VectorFile
from darec.artifacts.store import Artifact
from schemas.release import BUNDLE_FILES, RERANKER_FILE

if TYPE_CHECKING:
    import polars as pl

Content = TypeVar("Content")


@dataclass(frozen=True)
class File(Generic[Content]):
    """The handle of a file in a stage's artifact: the stage writes the file by it, and other stages read it by it."""

    stage: str
    name: str
    format: Format[Content]

    def of(self, artifact: Artifact) -> Content:
        """The content of this file in an artifact of the stage."""
        return self.format.read(artifact.file(self.name))

    def scan(self: "File[pl.DataFrame]", path: Path) -> "pl.LazyFrame":
        """The content of the table at `path` as a query, for one that may not fit in memory."""
        assert isinstance(self.format, Table)
        return self.format.scan(path)

    def sink(self: "File[pl.DataFrame]", query: "pl.LazyFrame", path: Path) -> None:
        """Writes the table to `path` while its query is computed, for one that may not fit in memory."""
        assert isinstance(self.format, Table)
        self.format.sink(query, path)


# ingest: the raw files, cleaned
INTERACTIONS = File("ingest", "interactions.parquet", Table("INTERACTIONS", "INTERACTION_EXTRAS"))
DISLIKES = File("ingest", "dislikes.parquet", Table("DISLIKES"))  # only if the recipe names dislikes
ITEMS = File("ingest", "items.parquet", Table("ITEMS"))
USERS = File("ingest", "users.parquet", Table("USERS"))

# split: train, validation and test; the numbers of users and items
TRAIN_PART = File("split", "train.parquet", Table("SPLIT_PART", "SPLIT_EXTRAS"))
VAL_PART = File("split", "val.parquet", Table("SPLIT_PART", "SPLIT_EXTRAS"))
TEST_PART = File("split", "test.parquet", Table("SPLIT_PART", "SPLIT_EXTRAS"))
TRAIN_DISLIKES = File("split", "train_dislikes.parquet", Table("DISLIKED_PAIRS"))  # only if the recipe names dislikes
ALL_DISLIKES = File("split", "dislikes.parquet", Table("DISLIKED_PAIRS"))
USER_VOCABULARY = File("split", "users.parquet", Table("USER_VOCABULARY"))
ITEM_VOCABULARY = File("split", "items.parquet", Table("ITEM_VOCABULARY"))

# profile_items: the LLM on items
ITEM_PROFILES = File("profile_items", "profiles.parquet", Table("ITEM_PROFILES"))
ITEM_FALLBACKS = File("profile_items", "fallbacks.parquet", Table("FALLBACKS"))

# profile_users: the LLM on users
USER_PROFILES = File("profile_users", "profiles.parquet", Table("USER_PROFILES"))
USER_FALLBACKS = File("profile_users", "fallbacks.parquet", Table("FALLBACKS"))

# embed: text vectors
TEXT_VECTORS = File("embed", "vectors.safetensors", VectorFile())

# graph: weighted edges
EDGES = File("graph", "edges.parquet", Table("EDGES"))

# choose: the training settings, only if the recipe has a search
CHOICE = File("choose", "choice.json", Json())

# train: the model
MODEL = File("train", "model.safetensors", OpaqueFile())
EMBEDDINGS = File("train", "embeddings.safetensors", VectorFile())
HISTORY = File("train", "history.parquet", Table("HISTORY"))

# train_reference: the model without text
REFERENCE_MODEL = File("train_reference", "model.safetensors", OpaqueFile())
REFERENCE_EMBEDDINGS = File("train_reference", "embeddings.safetensors", VectorFile())
REFERENCE_HISTORY = File("train_reference", "history.parquet", Table("HISTORY"))

# rerank: the reranker, only if the recipe has one
RERANKER = File("rerank", RERANKER_FILE, OpaqueFile())

# refit: the released model
REFIT_MODEL = File("refit", "model.safetensors", OpaqueFile())
REFIT_EMBEDDINGS = File("refit", "embeddings.safetensors", VectorFile())
REFIT_HISTORY = File("refit", "history.parquet", Table("HISTORY"))

# evaluate: metrics
METRICS = File("evaluate", "metrics.json", Json())
PER_USER_METRICS = File("evaluate", "per_user.parquet", OpaqueFile())

# export: the bundle (`darec.serving.bundle`)
BUNDLE = tuple(File("export", name, OpaqueFile()) for name in BUNDLE_FILES)
