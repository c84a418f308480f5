"""Configuration of the backbones: one class for each, selected by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.section import Section


class MFConfig(Section):
    """Matrix factorisation: the input embeddings are the representations."""

    name: Literal["mf"] = "mf"


class LayersConfig(Section):
    """Linear propagation, without weight matrices or activations."""

    layers: int = Field(default=3, ge=0, le=64)
    """Number of times the embeddings are propagated over the graph."""
    combine: Literal["mean", "sum"] = "sum"
    """How layers 0 to `layers` are combined. mean: as in the paper. sum: as in RLMRec."""


class LightGCNConfig(LayersConfig):
    """LightGCN (He et al., SIGIR 2020)."""

    name: Literal["lightgcn"] = "lightgcn"
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the edges kept in each training step, without rescaling. RLMRec keeps 0.8."""


class NGCFConfig(Section):
    """NGCF (Wang et al., SIGIR 2019)."""

    name: Literal["ngcf"] = "ngcf"
    layers: int = Field(default=3, ge=0, le=64)
    """Number of layers. Their outputs, each as wide as the embeddings, are concatenated."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Message dropout: fraction of each layer's output that is set to zero in training."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the edges kept in each training step, without rescaling."""


class GCCFConfig(Section):
    """LR-GCCF (Chen et al., AAAI 2020)."""

    name: Literal["gccf"] = "gccf"
    layers: int = Field(default=2, ge=0, le=64)
    """Number of propagated layers that are concatenated with the embeddings."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the edges kept in each training step, without rescaling."""


class ContrastConfig(LayersConfig):
    """Contrastive learning between two views of every node."""

    weight: float = Field(default=0.1, ge=0)
    """Weight of the contrastive loss relative to the ranking loss."""
    temperature: float = Field(default=0.2, ge=1e-3)
    """Temperature of the contrastive loss."""
    negatives: Literal["all", "batch"] = "all"
    """Negatives for the contrastive loss. all: all users (or items), as in RLMRec. batch: those of the batch, as in the
    papers, which is faster."""


class SGLConfig(ContrastConfig):
    """SGL (Wu et al., SIGIR 2021) with edge dropout."""

    name: Literal["sgl"] = "sgl"
    edge_keep: float = Field(default=0.8, gt=0, le=1)
    """Fraction of the edges kept in each of the two subgraphs."""
    contrast_negatives: bool = True
    """Whether the negative items of the batch are included in the contrastive loss, as in RLMRec."""


class SimGCLConfig(ContrastConfig):
    """SimGCL (Yu et al., SIGIR 2022)."""

    name: Literal["simgcl"] = "simgcl"
    noise: float = Field(default=0.9, ge=0)
    """Norm of the random vector that is added to each row in each layer."""


class DCCFConfig(Section):
    """DCCF (Ren et al., SIGIR 2023)."""

    name: Literal["dccf"] = "dccf"
    layers: int = Field(default=2, ge=0, le=64)
    """Number of layers, each with four views."""
    intents: int = Field(default=128, ge=1, le=16_384)
    """Number of intents of users, and of items."""
    weight: float = Field(default=1e-3, ge=0)
    """Weight of the contrastive loss relative to the ranking loss."""
    temperature: float = Field(default=0.1, ge=1e-3)
    """Temperature of the contrastive loss."""


class AutoCFConfig(Section):
    """AutoCF (Xia et al., WWW 2023). Its own full-softmax loss replaces `train.loss`."""

    name: Literal["autocf"] = "autocf"
    layers: int = Field(default=2, ge=0, le=64)
    """Number of propagated layers in the encoder."""
    heads: int = Field(default=4, ge=1, le=1_024)
    """Number of attention heads in the decoder."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the regulariser that separates users from each other, and items from each other."""
    seeds: int = Field(default=100, ge=1, le=2**31)
    """Number of nodes whose neighbourhoods are masked at a time."""
    mask_depth: int = Field(default=2, ge=1, le=64)
    """Edges within this distance of a seed are masked."""
    mask_steps: int = Field(default=10, ge=1, le=1_000_000_000)
    """Draws new masks every N training steps."""
    random_nodes: float = Field(default=0.2, ge=0, le=1)
    """Additional nodes, as a fraction of all, for the random pairs of the decoder."""


BackboneConfig = Annotated[
    MFConfig | LightGCNConfig | NGCFConfig | GCCFConfig | SGLConfig | SimGCLConfig | DCCFConfig | AutoCFConfig,
    Field(discriminator="name"),
]
