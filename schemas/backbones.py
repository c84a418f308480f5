"""Configuration of the backbones: one class for each, selected by `name`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.section import Section, added


def check_whitening(whiten: int, whitening: float) -> None:
    """Raises ValueError if `whitening` is set and has no effect."""
    if whitening != 1 and not whiten:
        raise ValueError("whitening has no effect, because whiten is 0: set whiten to the number of dimensions")


class BackboneSection(Section):
    """Base class of the configuration of backbones."""

    @property
    def needs_text(self) -> bool:
        """Whether the backbone itself uses text vectors."""
        return False

    @property
    def needs_graph(self) -> bool:
        """Whether the backbone propagates over the train graph."""
        return True

    def without_text(self) -> "BackboneSection":
        """The same model without text."""
        return self


class MFConfig(BackboneSection):
    """Matrix factorisation: the input embeddings are the representations."""

    name: Literal["mf"] = "mf"

    @property
    def needs_graph(self) -> bool:
        """Nothing is propagated."""
        return False


class LayersConfig(BackboneSection):
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
    edge_sampling: Literal["uniform", "degree"] = added("uniform")
    """Which edges are kept. uniform: all are equally likely. degree: an edge is kept with the probability `edge_keep`
    times its relative weight, 1 / sqrt(degree of the user x degree of the item) over the mean of all edges, and always
    if that is more than 1; the rest is normalised again, after FREEDOM (Zhou and Shen, MM 2023). Popular nodes lose the
    most edges, and fewer are left than `edge_keep` says: about half with 0.8, if degrees are very different."""
    input_layer: bool = added(True)
    """Whether layer 0, the id embeddings, is one of the layers that are combined. In the code of ProMax it is not."""

    @model_validator(mode="after")
    def _some_layer(self) -> "LightGCNConfig":
        if not self.layers and not self.input_layer:
            raise ValueError("input_layer: false leaves no layer, because layers is 0")
        return self

    @model_validator(mode="after")
    def _some_edge_is_dropped(self) -> "LightGCNConfig":
        if self.edge_sampling != "uniform" and self.edge_keep == 1:
            raise ValueError(f"edge_sampling: {self.edge_sampling} needs edge_keep below 1, such as 0.8")
        return self


class NGCFConfig(BackboneSection):
    """NGCF (Wang et al., SIGIR 2019)."""

    name: Literal["ngcf"] = "ngcf"
    layers: int = Field(default=3, ge=0, le=64)
    """Number of layers. Their outputs, each as wide as the embeddings, are concatenated."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Message dropout: fraction of each layer's output that is set to zero in training."""
    edge_keep: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the edges kept in each training step, without rescaling."""


class GCCFConfig(BackboneSection):
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


class DCCFConfig(BackboneSection):
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


class AutoCFConfig(BackboneSection):
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
    """Number of nodes in the random pairs of the decoder, as a fraction of all nodes."""


class ClosedFormConfig(BackboneSection):
    """A model with a closed-form solution. `train.dim` is the dimension of its vectors. Losses and epochs do not
    apply."""

    @property
    def needs_graph(self) -> bool:
        """It is computed from the interactions."""
        return False


class ItemModelConfig(ClosedFormConfig):
    """Item-to-item weights from a ridge regression of each item on all other items."""

    l2: float = Field(default=100.0, gt=0)
    """Ridge penalty."""
    exact_up_to: int = Field(default=30_000, ge=0, le=200_000)
    """Maximum number of items for which the weights are exact. This takes three float32 matrices of items x items: 11
    GB for 30,000 items. Larger catalogues are solved approximately."""
    neighbours: int = Field(default=64, ge=1, le=1_024)
    """Number of items that each item is regressed on in the approximation."""
    graph: float = added(0.0, ge=0, le=100)
    """Standard deviation of the scores of a graph filter (GF-CF with its defaults), relative to those of the
    regression, that are added to these. 0 means no graph filter."""


class EASEConfig(ItemModelConfig):
    """EASE (Steck, WWW 2019), which does not use text."""

    name: Literal["ease"] = "ease"


class L3AEConfig(ItemModelConfig):
    """L3AE (Moon et al., CIKM 2025): a ridge regression on interactions that shrinks towards weights from item
    texts."""

    name: Literal["l3ae"] = "l3ae"
    l2: float = Field(default=150.0, gt=0)
    """Ridge penalty on the distance from the weights of the text. In the paper: lambda_X + lambda_E."""
    prior: float = Field(default=1.33, ge=0)
    """Factor for the weights of the text. In the paper: lambda_E / (lambda_X + lambda_E)."""
    text_l2: float = Field(default=5.0, gt=0)
    """Ridge penalty for the weights of the text, which are fitted to text vectors of unit length."""
    whiten: int = Field(default=0, ge=0, le=16_384)
    """Number of dimensions that item texts are PCA-whitened to first. 0 means no whitening."""
    whitening: float = added(1.0, ge=0, le=1)
    """How far they are whitened: 1 gives all components variance 1, 0.5 takes the square root of their standard
    deviations, and 0 leaves these unchanged. Used if `whiten` is above 0."""

    @model_validator(mode="after")
    def _whitened(self) -> "L3AEConfig":
        check_whitening(self.whiten, self.whitening)
        return self

    @property
    def needs_text(self) -> bool:
        """Always true: the model is fitted to item texts."""
        return True

    def without_text(self) -> EASEConfig:
        """EASE, with its own default penalty."""
        return EASEConfig(exact_up_to=self.exact_up_to, neighbours=self.neighbours, graph=self.graph)


class IALSConfig(ClosedFormConfig):
    """Implicit ALS (Hu et al., ICDM 2008) with frequency-scaled regularisation (Rendle et al., RecSys 2022)."""

    name: Literal["ials"] = "ials"
    sweeps: int = Field(default=16, ge=1, le=10_000)
    """Number of iterations. Each one solves for all users and then for all items."""
    l2: float = Field(default=0.003, gt=0)
    """L2 penalty of a row. It is multiplied by the row's number of interactions plus `unobserved` times the number of
    rows of the other side."""
    unobserved: float = Field(default=0.03, gt=0)
    """Weight of all user-item pairs relative to interactions."""


class ItemKNNConfig(ClosedFormConfig):
    """Item-based nearest neighbours (Sarwar et al., WWW 2001): cosines of items by the users that they share."""

    name: Literal["item-knn"] = "item-knn"
    neighbours: int = Field(default=100, ge=1, le=16_384)
    """Number of most similar items that an item is scored by."""
    shrink: float = Field(default=0.0, ge=0)
    """Added to the denominator of the cosine, so that items with few users are less similar to others."""


class GraphFilterConfig(ClosedFormConfig):
    """GF-CF (Shen et al., CIKM 2021): a linear and an ideal low-pass filter of the interaction graph."""

    name: Literal["gf-cf"] = "gf-cf"
    components: int = Field(default=256, ge=1, le=16_384)
    """Number of singular vectors in the ideal low-pass filter."""
    ideal: float = Field(default=0.3, ge=0)
    """Weight of the ideal low-pass filter relative to the linear filter."""
    sharpen: float = added(0.0, ge=0, le=1)
    """Fraction of the scores' own blur by the linear filter that is subtracted from them, as in the sharpening step of
    BSPM (Choi et al., SIGIR 2023). 0 is GF-CF."""


class PopularityConfig(ClosedFormConfig):
    """The same items for every user, by their number of train interactions: the least that a model has to be better
    than."""

    name: Literal["popularity"] = "popularity"


CLOSED_FORMS = ("ease", "l3ae", "ials", "item-knn", "gf-cf", "popularity")
"""Names of the models with a closed-form solution."""

BackboneConfig = Annotated[
    MFConfig
    | LightGCNConfig
    | NGCFConfig
    | GCCFConfig
    | SGLConfig
    | SimGCLConfig
    | DCCFConfig
    | AutoCFConfig
    | EASEConfig
    | L3AEConfig
    | IALSConfig
    | ItemKNNConfig
    | PopularityConfig
    | GraphFilterConfig,
    Field(discriminator="name"),
]
