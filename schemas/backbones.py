"""Configuration of the backbones, one class each, told apart by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.section import Section


class MFConfig(Section):
    """Matrix factorisation: the input embeddings are the representations."""

    name: Literal["mf"] = "mf"


class LightGCNConfig(Section):
    """LightGCN (He et al., SIGIR 2020)."""

    name: Literal["lightgcn"] = "lightgcn"
    layers: int = Field(default=3, ge=0)
    """How many times the embeddings are propagated over the graph."""
    combine: Literal["mean", "sum"] = "sum"
    """How layers 0 to `layers` become one representation: mean as in the paper, sum as in RLMRec."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """The share of edges kept in each training step, not rescaled; RLMRec keeps 0.8."""


BackboneConfig = Annotated[MFConfig | LightGCNConfig, Field(discriminator="name")]
