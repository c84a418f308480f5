"""Configuration of the alignment objectives, one class each, told apart by `name`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.section import Section


class DaRecWeights(Section):
    """The weight of each of DaRec's terms, all multiplied by the objective's `weight`."""

    orthogonality: float = Field(default=1.0, ge=0)
    """Specific and shared part of a row at right angles."""
    uniformity: float = Field(default=1.0, ge=0)
    """Specific parts spread over the sphere."""
    global_structure: float = Field(default=1.0, ge=0)
    """Similarity matrices of both shared parts alike."""
    local_structure: float = Field(default=1.0, ge=0)
    """Matched preference centres of both shared parts alike."""


class DaRecConfig(Section):
    """DaRec (arXiv 2408.08231): disentangled alignment of structure. What the paper leaves open is an option here."""

    name: Literal["darec"] = "darec"
    weight: float = Field(default=0.4, ge=0)
    """Lambda: the weight of all terms together."""
    weights: DaRecWeights = Field(default_factory=DaRecWeights)
    warmup_epochs: int = Field(default=0, ge=0, le=1_000_000)
    """The weight grows in a line from 0 to its full value over so many epochs."""
    cf_parts: Literal["network", "columns"] = "columns"
    """How the backbone's rows come apart. network: a learnt projection for each part. columns: the first are shared,
    the others specific, so that the terms move the representations themselves."""
    shared: float = Field(default=1.0, gt=0, le=1)
    """The share of columns that is shared, where `cf_parts` is columns."""
    text_parts: Literal["network", "components"] = "components"
    """How text vectors come apart. network: a learnt projection for each part. components: principal components,
    whitened, are the shared part; fixed, so that the text teaches the backbone and is not taught by it."""
    components: int = Field(default=256, ge=1, le=16_384)
    """How many of them, where `text_parts` is components."""
    propagate: int = Field(default=8, ge=0, le=1_000)
    """Steps over the train graph that the components take first, as the backbone's rows do, the layers summed: then
    both sides tell of a node's neighbours."""
    depth: int = Field(default=2, ge=1, le=32)
    """Linear layers of each learnt projection."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of their hidden layers and of the parts that they make."""
    activation: Literal["leaky_relu", "relu", "gelu", "tanh"] = "leaky_relu"
    """Between the linear layers of a projection."""
    sides: Literal["items", "users", "separate", "joint"] = "items"
    """Whose rows are aligned. items, users: those of one side. separate: each side's for itself, and the two averaged.
    joint: users and items are rows of one sample."""
    sample: int = Field(default=512, ge=2, le=16_384)
    """N^: how many rows a side are drawn in each step for all the terms; one that is drawn twice is there once."""
    sample_from: Literal["interactions", "uniform", "batch"] = "interactions"
    """interactions: users and items as often as they are in train. uniform: all alike. batch: only users and positive
    items of the step's batch."""
    similarity: Literal["cosine", "inner", "softmax"] = "softmax"
    """What the global term compares. cosine, inner: the similarity matrices, squared differences. softmax: each row of
    cosines as a distribution over the other rows; the backbone's is drawn to the text's (KL divergence)."""
    temperature: float = Field(default=0.2, ge=0.02)
    """Of the softmax of the backbone's similarities."""
    text_temperature: float = Field(default=0.07, ge=0.02)
    """Of the softmax of the text's similarities."""
    centres: int = Field(default=8, ge=2, le=1_024)
    """K: preference centres a side."""
    recluster_steps: int = Field(default=35, ge=1, le=1_000_000_000)
    """Steps between two runs of k-means; between them a row belongs to the nearest of the last run's centres. A text
    that learns nothing (`text_parts: components`) is clustered in the first step only and keeps those centres."""
    kmeans_iterations: int = Field(default=10, ge=1, le=1_000)
    """Lloyd iterations in a run of k-means, which starts from the centres of the run before."""
    matching: Literal["greedy", "optimal"] = "optimal"
    """How centres of both sides are paired: best pair first, or the best assignment as a whole."""
    local_loss: Literal["matrix", "distance", "relations"] = "relations"
    """matrix: cosines of matched centres against the identity. distance: mean squared distance of matched centres. Both
    match the nearest and need two networks, which put both sides into one space. relations: cosines among one side's
    centres against those among the other's; centres are matched by the rows they have in common."""
    gradient_to_backbone: bool = True
    """Whether the terms move the backbone; if not they only train the projections (an ablation)."""

    @model_validator(mode="after")
    def _comparable(self) -> "DaRecConfig":
        one_space = self.cf_parts == self.text_parts == "network"
        if self.weights.local_structure and self.local_loss != "relations" and not one_space:
            raise ValueError(f"local_loss: {self.local_loss} compares parts of one space: set both *_parts to network")
        return self


class RLMRecConConfig(Section):
    """RLMRec-Con (arXiv 2310.15950): InfoNCE between representations and projected text vectors."""

    name: Literal["rlmrec-con"] = "rlmrec-con"
    weight: float = Field(default=1e-2, ge=0)
    temperature: float = Field(default=0.2, ge=1e-3)
    rows: int = Field(default=0, ge=0, le=2**24)
    """At most so many of a batch's pairs are contrasted in a step; 0 is all of them, as published."""
    candidates: int = Field(default=0, ge=0, le=2**31)
    """So many users, drawn in each step, stand for all users that a user is contrasted with; 0 is all, as published."""


class RLMRecGenConfig(Section):
    """RLMRec-Gen (arXiv 2310.15950): nodes are masked before propagation and their text vectors are reconstructed."""

    name: Literal["rlmrec-gen"] = "rlmrec-gen"
    weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.5, ge=1e-3)
    mask: float = Field(default=0.15, gt=0, lt=1)
    """The share of nodes whose input is replaced by a learnt token in each training step."""
    rows: int = Field(default=0, ge=0, le=2**24)
    """At most so many of the masked nodes are reconstructed in a step; 0 is all of them, as published."""


class KARConfig(Section):
    """KAR-style fusion (arXiv 2306.10933): a mixture of experts turns text vectors into additional node input."""

    name: Literal["kar"] = "kar"
    experts: int = Field(default=2, ge=1, le=256)
    """How many experts users and items share; each side has as many again of its own."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of an expert's hidden layer."""


class DistillConfig(Section):
    """Softmax-similarity distillation: text similarities over all items teach the ranking over all items."""

    name: Literal["distill"] = "distill"
    weight: float = Field(default=0.1, ge=0)
    whiten: int = Field(default=64, ge=0, le=16_384)
    """Text vectors are PCA-whitened to so many dimensions first; 0 leaves them as they are."""
    teacher_temperature: float = Field(default=0.1, ge=1e-3)
    """Of the softmax of cosine text similarities."""
    temperature: float = Field(default=1.0, ge=1e-3)
    """Of the softmax of the representations' inner products."""
    rows: int = Field(default=512, ge=1, le=2**24)
    """How many of a batch's users the loss looks at in each step."""


class LinearTeacherConfig(Section):
    """Distillation from a closed-form linear model over items and their texts; for up to 30,000 items."""

    name: Literal["linear-teacher"] = "linear-teacher"
    weight: float = Field(default=1.0, ge=0)
    l2: float = Field(default=100.0, gt=0)
    """The linear model's ridge penalty."""
    text: float = Field(default=50.0, ge=0)
    """Weight of the texts' similarities beside the counts of users whom two items share; 0 is plain EASE."""
    whiten: int = Field(default=128, ge=0, le=16_384)
    """Item texts are PCA-whitened to so many dimensions first; 0 leaves them as they are."""
    top: int = Field(default=50, ge=1, le=10_000)
    """How many unseen items a user learns from."""
    users: Literal["uniform", "batch"] = "uniform"
    """uniform: every user with a history is drawn equally often, as metrics count them. batch: the users of the batch's
    pairs, the busy ones more often."""
    sharpness: float = Field(default=2.0, gt=0)
    """The power of the teacher's scores that a user's items are wanted in proportion to: the higher, the more the first
    places count."""
    temperature: float = Field(default=1.0, ge=1e-3)
    """Of the softmax over all unseen items."""


AlignmentConfig = Annotated[
    DaRecConfig | RLMRecConConfig | RLMRecGenConfig | KARConfig | DistillConfig | LinearTeacherConfig,
    Field(discriminator="name"),
]
