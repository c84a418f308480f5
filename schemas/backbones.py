"""Configuration of the backbones, one class each, told apart by `name`."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.section import Section


class MFConfig(Section):
    """Matrix factorisation: the input embeddings are the representations."""

    name: Literal["mf"] = "mf"


class LayersConfig(Section):
    """Propagation without weights or activations."""

    layers: int = Field(default=3, ge=0, le=64)
    """How many times the embeddings are propagated over the graph."""
    combine: Literal["mean", "sum"] = "sum"
    """How layers 0 to `layers` become one representation: mean as in the paper, sum as in RLMRec."""


class LightGCNConfig(LayersConfig):
    """LightGCN (He et al., SIGIR 2020)."""

    name: Literal["lightgcn"] = "lightgcn"
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """The share of edges kept in each training step, not rescaled; RLMRec keeps 0.8."""


class NGCFConfig(Section):
    """NGCF (Wang et al., SIGIR 2019)."""

    name: Literal["ngcf"] = "ngcf"
    layers: int = Field(default=3, ge=0, le=64)
    """How many layers, each as wide as the embeddings, are put side by side."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """The share of numbers of each layer's output that is zeroed in training (message dropout)."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """The share of edges kept in each training step, not rescaled."""


class GCCFConfig(Section):
    """LR-GCCF (Chen et al., AAAI 2020)."""

    name: Literal["gccf"] = "gccf"
    layers: int = Field(default=2, ge=0, le=64)
    """How many propagated layers stand beside the embeddings."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """The share of edges kept in each training step, not rescaled."""


class ContrastConfig(LayersConfig):
    """Two views of every node that must agree."""

    weight: float = Field(default=0.1, ge=0)
    """Of the contrastive term beside the ranking loss."""
    temperature: float = Field(default=0.2, ge=1e-3)
    negatives: Literal["all", "batch"] = "all"
    """What a node is told from: all users (items) as in RLMRec, or those of the batch as in the papers (faster)."""


class SGLConfig(ContrastConfig):
    """SGL (Wu et al., SIGIR 2021) with edge dropout."""

    name: Literal["sgl"] = "sgl"
    edge_keep: float = Field(default=0.8, gt=0, le=1)
    """The share of edges in each of the two subgraphs."""
    contrast_negatives: bool = True
    """The batch's negative items take part in the contrastive term too, as in RLMRec."""


class SimGCLConfig(ContrastConfig):
    """SimGCL (Yu et al., SIGIR 2022)."""

    name: Literal["simgcl"] = "simgcl"
    noise: float = Field(default=0.9, ge=0)
    """Length of the random vector added to each row in each layer."""


class DCCFConfig(Section):
    """DCCF (Ren et al., SIGIR 2023)."""

    name: Literal["dccf"] = "dccf"
    layers: int = Field(default=2, ge=0, le=64)
    """How many layers of four views each."""
    intents: int = Field(default=128, ge=1, le=16_384)
    """Intents of users, and of items."""
    weight: float = Field(default=1e-3, ge=0)
    """Of the contrastive term beside the ranking loss."""
    temperature: float = Field(default=0.1, ge=1e-3)


class AutoCFConfig(Section):
    """AutoCF (Xia et al., WWW 2023); its own full-softmax loss takes the place of `train.loss`."""

    name: Literal["autocf"] = "autocf"
    layers: int = Field(default=2, ge=0, le=64)
    """Propagated layers of the encoder."""
    heads: int = Field(default=4, ge=1, le=1_024)
    """Attention heads of the decoder."""
    weight: float = Field(default=1.0, ge=0)
    """Of the term that keeps users apart from users and items from items."""
    seeds: int = Field(default=100, ge=1, le=2**31)
    """Nodes whose surroundings are masked at once."""
    mask_depth: int = Field(default=2, ge=1, le=64)
    """How many steps from a seed edges are hidden."""
    mask_steps: int = Field(default=10, ge=1, le=1_000_000_000)
    """Training steps before masks are drawn anew."""
    random_nodes: float = Field(default=0.2, ge=0, le=1)
    """Further nodes, as a share of all, that take part in the decoder's random pairs."""


BackboneConfig = Annotated[
    MFConfig | LightGCNConfig | NGCFConfig | GCCFConfig | SGLConfig | SimGCLConfig | DCCFConfig | AutoCFConfig,
    Field(discriminator="name"),
]
