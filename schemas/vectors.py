"""Configuration of the vector store that a release is pushed into."""

from typing import Literal

from schemas.secret import OpenAddress
from schemas.section import Section, not_hashed


class VectorsConfig(Section):
    """Pushes the vectors of users and items of the release in production into a vector store, after publishing. Readers
    use the names `<name>_users` and `<name>_items` (in Milvus `<name>_release`), which are switched to the new vectors
    once all of them are written.
    """

    store: Literal["pgvector", "qdrant", "lancedb", "milvus"] = not_hashed("pgvector")
    """pgvector: PostgreSQL with the extension vector. qdrant: a Qdrant server, or a folder. lancedb: a folder, or an
    object store such as s3://bucket/folder. milvus: a Milvus server (2.5 or later), or with `pip install milvus-lite` a
    folder whose name ends in .db. All need `pip install 'darec[vectors]'`."""
    address: OpenAddress | None = not_hashed(None)
    """Address of the server, such as postgresql://user@host/database or http://host:6333, or a folder. It must not
    contain a password, which is read from the environment (PGPASSWORD, QDRANT_API_KEY, MILVUS_TOKEN,
    AWS_SECRET_ACCESS_KEY). null: the whole address is the value of the environment variable DAREC_VECTORS."""
    name: str = not_hashed("darec", pattern=r"^[a-z][a-z0-9_]{0,19}$")
    """Prefix of the names of tables, collections and aliases."""
    keep: int = not_hashed(2, ge=0, le=1000)
    """Number of earlier releases that are kept in the store, so that a rollback only switches names. Older ones are
    removed.
    """
    index_from: int = not_hashed(50_000, ge=0, le=2**31)
    """Number of items from which an approximate index is built (pgvector and milvus: HNSW, lancedb: IVF). With fewer
    items the search is exact. Qdrant has its own threshold."""
