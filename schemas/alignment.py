"""Configuration of the alignment objectives: one class for each, selected by `name`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.backbones import EASEConfig, L3AEConfig
from schemas.section import Section, added


class ObjectiveSection(Section):
    """Base class of the configuration of objectives."""

    @property
    def needs_text(self) -> bool:
        """Whether the objective uses text vectors."""
        return True

    @property
    def needs_graph(self) -> bool:
        """Whether the objective itself uses the train graph, beside the backbone."""
        return False

    def without_text(self) -> "ObjectiveSection | None":
        """The same objective without text; None if it is about text only."""
        return None


class DaRecWeights(Section):
    """Weight of each term of DaRec. The objective's `weight` multiplies all of them."""

    orthogonality: float = Field(default=1.0, ge=0)
    """Keeps the specific and the shared part of a row orthogonal."""
    uniformity: float = Field(default=1.0, ge=0)
    """Spreads the specific parts uniformly over the unit hypersphere."""
    global_structure: float = Field(default=1.0, ge=0)
    """Aligns the similarity matrices of both shared parts."""
    local_structure: float = Field(default=1.0, ge=0)
    """Aligns the matched preference centres of both shared parts."""


class DaRecConfig(ObjectiveSection):
    """DaRec (arXiv 2408.08231): disentangled alignment of structure. Choices that the paper leaves open are options."""

    name: Literal["darec"] = "darec"
    weight: float = Field(default=0.4, ge=0)
    """Lambda: weight of the sum of all terms. In a recipe, `auto` lets `search` choose it, for any objective."""
    weights: DaRecWeights = Field(default_factory=DaRecWeights)
    """Weight of each term."""
    warmup_epochs: int = Field(default=0, ge=0, le=1_000_000)
    """Linear warm-up: the weight rises from 0 to its full value over the first N epochs."""
    cf_parts: Literal["network", "columns"] = "columns"
    """How the backbone's representations are divided into a shared and a specific part. network: a learnt projection
    for each part. columns: the first columns are shared and the others specific, so that the terms change the
    representations directly."""
    shared: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the columns that is shared. Used if `cf_parts` is columns."""
    text_parts: Literal["network", "components"] = "components"
    """How text vectors are divided into a shared and a specific part. network: a learnt projection for each part.
    components: the whitened principal components are the shared part and there is no specific part. They are frozen:
    the text side is the teacher and the backbone the student."""
    components: int = Field(default=256, ge=1, le=16_384)
    """Number of principal components. Used if `text_parts` is components."""
    propagate: int = Field(default=8, ge=0, le=1_000)
    """Number of propagation steps over the train graph that are applied to the components first. The layers are
    summed, as in the backbone, so that both sides describe a node's neighbourhood."""
    depth: int = Field(default=2, ge=1, le=32)
    """Number of linear layers in each learnt projection."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of the hidden layers and of the output of each learnt projection."""
    activation: Literal["leaky_relu", "relu", "gelu", "tanh"] = "leaky_relu"
    """Activation between the linear layers of a projection."""
    sides: Literal["items", "users", "separate", "joint"] = "items"
    """Which nodes are aligned. items, users: those of one side only. separate: each side by itself, and the two losses
    are averaged. joint: users and items together in one sample."""
    sample: int = Field(default=2_048, ge=2, le=16_384)
    """N^: number of rows per side in a sample, which all terms compare. On a GPU all rows of a sample are distinct. On
    a CPU they are drawn with replacement and duplicates are removed, so that a sample has fewer: 1,609 of 2,048 on
    Amazon Beauty."""
    every: int = added(6, before=1, ge=1, le=1_000_000)
    """Draws a sample every N steps. The steps in between use the gradient of the last one again; networks that the
    objective learns (`network` parts) are updated in the steps with a sample only. Each epoch begins with a sample."""
    sample_from: Literal["interactions", "uniform", "batch"] = "interactions"
    """How the sample is drawn. interactions: in proportion to the number of train interactions. uniform: every row is
    equally likely. batch: only users and positive items of the current batch."""
    similarity: Literal["cosine", "inner", "softmax"] = "softmax"
    """What the global term compares. cosine, inner: mean squared difference of the two similarity matrices. softmax:
    each row of cosine similarities is a distribution over the other rows, and the loss is the KL divergence from the
    text's to the backbone's."""
    temperature: float = Field(default=0.2, ge=0.02)
    """Temperature of the softmax over the backbone's similarities."""
    text_temperature: float = Field(default=0.07, ge=0.02)
    """Temperature of the softmax over the text's similarities."""
    centres: int = Field(default=8, ge=2, le=1_024)
    """K: number of preference centres per side."""
    recluster_steps: int = Field(default=35, ge=1, le=1_000_000_000)
    """Runs k-means every N samples. In between, a row belongs to the nearest centre of the last
    run. A frozen text side (`text_parts: components`) is clustered in the first step only and keeps those centres."""
    kmeans_iterations: int = Field(default=10, ge=1, le=1_000)
    """Number of Lloyd iterations in each run of k-means, which starts from the previous centres."""
    matching: Literal["greedy", "optimal"] = "optimal"
    """How the centres of both sides are matched. greedy: the most similar pair first. optimal: the assignment with the
    largest total similarity."""
    local_loss: Literal["matrix", "distance", "relations"] = "relations"
    """Loss of the local term. matrix: cosine similarities of matched centres against the identity matrix. distance:
    mean squared distance of matched centres. Both match the nearest centres, and need `network` for both parts, so that
    both sides are in one space. relations: cosine similarities among the centres of one side against those among the
    other's; centres are matched by the rows that they share."""
    gradient_to_backbone: bool = True
    """Whether gradients of the terms reach the backbone. If false, they train the projections only (an ablation)."""

    @model_validator(mode="after")
    def _comparable(self) -> "DaRecConfig":
        one_space = self.cf_parts == self.text_parts == "network"
        if self.weights.local_structure and self.local_loss != "relations" and not one_space:
            raise ValueError(f"local_loss: {self.local_loss} compares parts of one space: set both *_parts to network")
        return self


class RLMRecConConfig(ObjectiveSection):
    """RLMRec-Con (arXiv 2310.15950): InfoNCE between representations and projected text vectors."""

    name: Literal["rlmrec-con"] = "rlmrec-con"
    weight: float = Field(default=1e-2, ge=0)
    """Weight of the loss term."""
    temperature: float = Field(default=0.2, ge=1e-3)
    """Temperature of InfoNCE."""
    rows: int = Field(default=0, ge=0, le=2**24)
    """Maximum number of pairs of the batch that are contrasted in each step. 0 means all, as published."""
    candidates: int = Field(default=0, ge=0, le=2**31)
    """Number of users drawn in each step as the candidates that a user is contrasted with. 0 means all users, as
    published."""


class RLMRecGenConfig(ObjectiveSection):
    """RLMRec-Gen (arXiv 2310.15950): nodes are masked before propagation and their text vectors are reconstructed."""

    name: Literal["rlmrec-gen"] = "rlmrec-gen"
    weight: float = Field(default=0.1, ge=0)
    """Weight of the loss term."""
    temperature: float = Field(default=0.5, ge=1e-3)
    """Temperature of the reconstruction loss."""
    mask: float = Field(default=0.15, gt=0, lt=1)
    """Fraction of the nodes whose input is replaced by a learnt token in each training step."""
    rows: int = Field(default=0, ge=0, le=2**24)
    """Maximum number of masked nodes that are reconstructed in each step. 0 means all, as published."""


class KARConfig(ObjectiveSection):
    """KAR-style fusion (arXiv 2306.10933): a mixture of experts maps text vectors to an additional node input."""

    name: Literal["kar"] = "kar"
    experts: int = Field(default=2, ge=1, le=256)
    """Number of experts that users and items share. Each side has the same number of private experts."""
    width: int = Field(default=64, ge=1, le=16_384)
    """Width of the hidden layer of an expert."""


class DistillConfig(ObjectiveSection):
    """Softmax-similarity distillation from text similarities over all items to the scores over all items."""

    name: Literal["distill"] = "distill"
    weight: float = Field(default=0.1, ge=0)
    """Weight of the loss term."""
    whiten: int = Field(default=64, ge=0, le=16_384)
    """Number of dimensions that text vectors are PCA-whitened to first. 0 means no whitening."""
    teacher_temperature: float = Field(default=0.1, ge=1e-3)
    """Temperature of the softmax over the cosine similarities of text vectors."""
    temperature: float = Field(default=1.0, ge=1e-3)
    """Temperature of the softmax over the inner products of representations."""
    rows: int = Field(default=512, ge=1, le=2**24)
    """Number of users of the batch that the loss is computed for in each step."""
    whiten_sides: Literal["together", "alone"] = added("together")
    """together: the texts of users and of items have the same principal components. alone: each side has its own, as in
    the code of ProMax."""
    scores: Literal["inner", "cosine"] = added("inner")
    """What the softmax of the representations is over. cosine: as in the code of ProMax."""
    users: Literal["equal", "certain"] = added("equal")
    """Weight of each user. certain: 1 minus the entropy of the user's distribution over the items relative to that of
    the uniform distribution, at least 0.1, as in the code of ProMax."""


class RetrievedGraphConfig(ObjectiveSection):
    """The second graph of ProMax (arXiv 2604.26231): the train graph with more edges, from each user to the items of
    the most similar texts. Representations over both graphs are contrasted, ranking uses the train graph only. In
    ProMax an LLM chooses among the retrieved items; this choice is not part of the objective, so that every retrieved
    item is an edge. Objectives that change the input rows, such as `rlmrec-gen`, are listed after it. The backbone's
    representations must be as wide as the ids, as those of `lightgcn` are."""

    name: Literal["retrieved-graph"] = "retrieved-graph"
    weight: float = Field(default=0.05, ge=0)
    """Weight of the three terms: of users, of items, and of users against items."""
    temperature: float = Field(default=0.2, ge=1e-3)
    """Temperature of the three terms."""
    items: int = Field(default=3, ge=1, le=1_000)
    """Number of items that are retrieved for each user, without those of the user's train interactions."""
    layers: int = Field(default=3, ge=1, le=64)
    """Number of propagation steps over the second graph. Should be that of the backbone."""
    input_layer: bool = True
    """Whether layer 0, the id embeddings, is one of the layers that are summed. Should be that of the backbone; in the
    code of ProMax it is not."""


TeacherConfig = Annotated[EASEConfig | L3AEConfig, Field(discriminator="name")]


class LinearTeacherConfig(ObjectiveSection):
    """Distillation from a closed-form linear model over items and their texts."""

    name: Literal["linear-teacher"] = "linear-teacher"
    weight: float = Field(default=1.0, ge=0)
    """Weight of the loss term."""
    model: TeacherConfig | None = added(None)
    """The teacher, with its own fields. By default it is EASE with item texts as additional rows of its data,
    configured by `l2`, `text` and `whiten`; for more than 30,000 items it is the approximation of L3AE, of which only
    `whiten` is configured here."""
    l2: float = Field(default=100.0, gt=0)
    """Ridge penalty of the default teacher."""
    text: float = Field(default=50.0, ge=0)
    """Weight of the text similarities relative to the co-occurrence counts of items. 0 is plain EASE."""
    whiten: int = Field(default=128, ge=0, le=16_384)
    """Number of dimensions that item texts are PCA-whitened to first. 0 means no whitening."""
    top: int = Field(default=50, ge=1, le=10_000)
    """Number of unseen items per user in the teacher's distribution."""
    users: Literal["uniform", "batch"] = "uniform"
    """Which users the loss is computed for. uniform: all users with a history are equally likely, as in the metrics.
    batch: the users of the batch's pairs, so that active users occur more often."""
    sharpness: float = Field(default=2.0, gt=0)
    """Exponent applied to the teacher's scores. Higher values put more weight on the first ranks."""
    temperature: float = Field(default=1.0, ge=1e-3)
    """Temperature of the softmax over all unseen items."""

    @property
    def needs_text(self) -> bool:
        """Whether the teacher uses text vectors."""
        return self.model is None or self.model.needs_text

    def without_text(self) -> "LinearTeacherConfig":
        """The same teacher without text: EASE."""
        model = EASEConfig(l2=self.l2) if self.model is None else self.model.without_text()
        fields = type(self).model_fields
        unused = {name: fields[name].default for name in ("l2", "text", "whiten")}
        return self.model_copy(update=unused | {"model": model})

    @model_validator(mode="after")
    def _one_teacher(self) -> "LinearTeacherConfig":
        """Fields of the default teacher would have no effect on another one."""
        fields = type(self).model_fields
        ignored = [name for name in ("l2", "text", "whiten") if getattr(self, name) != fields[name].default]
        if self.model is not None and ignored:
            raise ValueError(
                f"{', '.join(ignored)} configure the default teacher, and model is {self.model.name}: leave them out, "
                f"or set the model's own fields"
            )
        return self


AlignmentConfig = Annotated[
    DaRecConfig
    | RLMRecConConfig
    | RLMRecGenConfig
    | KARConfig
    | DistillConfig
    | LinearTeacherConfig
    | RetrievedGraphConfig,
    Field(discriminator="name"),
]
