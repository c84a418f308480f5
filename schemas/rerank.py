"""Configuration of the reranker, which reorders the candidates that vectors find."""

from typing import Literal

from pydantic import Field

from schemas.section import Section


class MMRConfig(Section):
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each position is filled with the candidate that
    maximises (1 - weight) * relevance - weight * similarity. Relevance is the score, scaled to [0, 1] over the user's
    candidates. Similarity is the largest cosine similarity to an item that is already in the list."""

    name: Literal["mmr"] = "mmr"
    weight: float = Field(default=0.3, ge=0, le=1)
    """Weight of diversity against relevance. 0 keeps the order of the candidates."""
    candidates: int = Field(default=100, ge=1, le=1_000)
    """Number of items with the largest inner product that are reordered. The items after them keep their order."""
    similarity: Literal["text", "interactions"] = "text"
    """Vectors by which items are compared. text: their text vectors. interactions: their trained vectors."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Which vectors of items the reranker needs, of `text` and `interactions`."""
        return (self.similarity,)


RerankConfig = MMRConfig
"""All rerankers. With a second one, the `name` selects the class; docs/extending/stage.md shows how."""
